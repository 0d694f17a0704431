"""The consumer's AMQP connection, reading and writing in bulk: real py-amqp, a broker played by hand."""

from __future__ import annotations

from struct import pack
from types import SimpleNamespace
from typing import TYPE_CHECKING

import gevent
import gevent.socket
import pytest
from amqp import Connection
from amqp.transport import TCPTransport
from kombu.asynchronous.timer import Timer

from greenkit.celery import _amqp_broker
from greenkit.celery._amqp_broker import BulkAmqp
from greenkit.celery._event_loop import GreenHub

if TYPE_CHECKING:
    from collections.abc import Iterator

HEARTBEAT = 8


def frame(payload: bytes) -> bytes:
    return pack(">BHI", HEARTBEAT, 0, len(payload)) + payload + b"\xce"


class Broker:
    """Hold both ends: what the consumer was given, and what it sent."""

    def __init__(self) -> None:
        self.ours, self.end = gevent.socket.socketpair()
        wire = TCPTransport("nowhere")
        wire.sock, wire.connected = self.ours, True
        wire._setup_transport()
        self.connection = Connection()
        self.connection._transport = wire
        self.connection.on_inbound_frame = lambda frame: self.given.append(frame[2])
        self.given: list[bytes] = []
        self.hub = GreenHub(Timer())
        assert BulkAmqp.attach(SimpleNamespace(hub=self.hub, connection=self))
        self.wire = wire

    def turns(self, count: int = 1) -> None:
        for _ in range(count):
            self.hub.iterate(0.01)

    def close(self) -> None:
        self.hub.close()
        self.ours.close()
        self.end.close()


@pytest.fixture
def broker() -> Iterator[Broker]:
    broker = Broker()
    with gevent.Timeout(20.0):
        yield broker
    broker.close()


def test_frames_are_handed_over_in_order_however_they_are_cut(broker: Broker) -> None:
    """Cut at each place in turn, and whole; nobody waits for the missing part."""
    sent = [b"first" * 9, b"", b"third"]
    stream = b"".join(map(frame, sent))
    for cut in range(len(stream)):
        broker.given.clear()
        broker.end.sendall(stream[:cut])
        broker.turns(2)
        assert len(broker.given) < len(sent)
        broker.end.sendall(stream[cut:])
        broker.turns(2)
        assert broker.given == sent


def test_others_have_their_turn_in_a_flood(broker: Broker) -> None:
    """A thousand frames at once are handed over some at a time, all of them without another byte."""
    broker.end.sendall(frame(b"x") * 1000)
    most = turns = 0
    while len(broker.given) < 1000:
        before = len(broker.given)
        broker.turns()
        most, turns = max(most, len(broker.given) - before), turns + 1
        assert turns < 2000
    assert most < 100


def test_a_frame_larger_than_any_buffer_arrives(broker: Broker) -> None:
    """It comes over many turns."""
    payload = bytes(range(256)) * 4000
    feeding = gevent.spawn(broker.end.sendall, frame(payload) + frame(b"next"))
    while len(broker.given) < 2:
        broker.turns()
    feeding.get()
    assert broker.given == [payload, b"next"]


def test_the_writes_of_one_turn_leave_together(broker: Broker) -> None:
    """In order, in one send."""
    sends = []
    bulk = broker.wire._write.__self__
    send = bulk._send
    bulk._send = lambda data: (sends.append(bytes(data)), send(data))
    for number in range(100):
        broker.wire.write(memoryview(b"ack%02d" % number))
    assert sends == []
    broker.turns(2)
    assert sends == [b"".join(b"ack%02d" % number for number in range(100))]
    assert broker.end.recv(1000) == sends[0]


def test_what_was_written_leaves_before_anybody_waits_for_an_answer(broker: Broker) -> None:
    """The loop does not run then."""

    def answer() -> None:
        assert broker.end.recv(100) == b"question"
        broker.end.sendall(frame(b"answer"))

    answering = gevent.spawn(answer)
    broker.wire.write(b"question")
    broker.connection.blocking_read(10)
    answering.get()
    assert broker.given == [b"answer"]


def test_two_that_send_do_not_mix(broker: Broker) -> None:
    """While one waits for room in the socket, what another writes is sent after it."""
    large = b"a" * 4_000_000
    broker.wire.write(large)
    sending = gevent.spawn(broker.wire._write.__self__.flush)
    gevent.sleep(0)
    assert not sending.ready(), "the socket took it all: nothing was proved"
    broker.wire.write(b"b" * 10)
    gevent.spawn(broker.wire._write.__self__.flush)
    got = b""
    while len(got) < len(large) + 10:
        got += broker.end.recv(1_000_000)
    sending.get()
    assert got == large + b"b" * 10


def test_a_server_that_has_gone_is_said_as_py_amqp_says_it(broker: Broker) -> None:
    """What came before is handed over first, and Celery reconnects."""
    broker.end.sendall(frame(b"last") + frame(b"half")[:-3])
    broker.end.close()
    with pytest.raises(OSError, match="closed connection"):
        broker.turns(10)
    assert broker.given == [b"last"]
    assert not broker.connection.connected


def test_a_silent_broker_is_not_waited_for_for_ever(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for its answer nor for room in its socket: the loop has heartbeats to look after."""
    monkeypatch.setattr(_amqp_broker, "_ANSWER_TIMEOUT", 0.01)
    broker.wire.write(b"question")
    with pytest.raises(TimeoutError):
        broker.connection.blocking_read(None)
    broker.wire.write(b"a" * 4_000_000)
    with pytest.raises(TimeoutError):
        broker.turns()
    assert broker.ours.gettimeout() is None


def test_another_broker_is_left_alone() -> None:
    """Redis has no frames."""
    assert not BulkAmqp.attach(SimpleNamespace(connection=SimpleNamespace(connection=object())))
