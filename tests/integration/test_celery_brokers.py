"""A greenkit worker when the broker is another one, or goes away and comes back."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from greenkit.testing import ValkeyServer
from tests.integration.celery_worker import Worker

if TYPE_CHECKING:
    from pathlib import Path

    from greenkit.testing import RabbitServer

pytestmark = pytest.mark.filterwarnings("ignore")


def test_rabbitmq_runs_each_late_ack_task_once(
    greenkit_rabbitmq: RabbitServer, greenkit_valkey: ValkeyServer, tmp_path: Path
) -> None:
    """300 late-ack tasks at concurrency 100 over AMQP: each ran once."""
    urls = greenkit_rabbitmq.broker_url, greenkit_valkey.broker_url, greenkit_valkey.url
    with Worker(*urls, tmp_path) as worker, worker.running("-P", "gevent", "-c", "100"):
        worker.notes.flushdb()
        for number in range(300):
            worker.send("count", number, 0.2)
        worker.wait(lambda: int(worker.notes.get("ended") or 0) >= 300)
        assert {int(count) for count in worker.notes.hvals("runs")} == {1}
        assert worker.app.control.inspect(timeout=3).ping()
        assert worker.end() == 0


def test_quorum_queues_and_heartbeats_under_load(
    greenkit_rabbitmq: RabbitServer, greenkit_valkey: ValkeyServer, tmp_path: Path
) -> None:
    """A quorum queue's window is the consumer's own; heartbeats of 2 s are kept while 100 tasks run."""
    urls = greenkit_rabbitmq.broker_url, greenkit_valkey.broker_url, greenkit_valkey.url
    conf = {"task_default_queue": "steady", "task_default_queue_type": "quorum", "broker_heartbeat": 2}
    with Worker(*urls, tmp_path) as worker, worker.running("-P", "gevent", "-c", "50", TEST_CONF=repr(conf)):
        worker.notes.flushdb()
        worker.app.conf.update(conf)
        for number in range(250):
            worker.send("count", number, 1.0, queue="steady")
        worker.wait(lambda: int(worker.notes.get("ended") or 0) >= 250)
        assert {int(count) for count in worker.notes.hvals("runs")} == {1}
        assert "Global QoS is disabled. Prefetch count is now static." in worker.text()
        assert "lost" not in worker.text()
        assert worker.end() == 0


class Stretch:
    """Pass bytes between a worker and its broker; hold up all after so many from the broker until `go`."""

    def __init__(self, address: tuple[str, int], most: int) -> None:
        self.address, self.most = address, most
        self.held, self.go = threading.Event(), threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self.accept, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                ours = self.listener.accept()[0]
                theirs = socket.create_connection(self.address)
                for source, sink, most in ((ours, theirs, None), (theirs, ours, self.most)):
                    threading.Thread(target=self.pump, args=(source, sink, most), daemon=True).start()

    def pump(self, source: socket.socket, sink: socket.socket, most: int | None) -> None:
        passed = 0
        with source, contextlib.suppress(OSError):
            while data := source.recv(4096):
                sink.sendall(data)
                passed += len(data)
                if most is not None and passed > most:
                    self.held.set()
                    self.go.wait()
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


def test_a_large_message_that_comes_slowly_stops_no_task(
    greenkit_rabbitmq: RabbitServer, greenkit_valkey: ValkeyServer, tmp_path: Path
) -> None:
    """Half of a frame is here; py-amqp would ask for the rest without a pause and run nothing else."""
    broker = urlsplit(greenkit_rabbitmq.broker_url)
    slow = Stretch((broker.hostname or "", broker.port or 0), 60_000)
    url = broker._replace(netloc=broker.netloc.replace(str(broker.port), str(slow.port))).geturl()
    with (
        slow.listener,
        Worker(
            greenkit_rabbitmq.broker_url, greenkit_valkey.broker_url, greenkit_valkey.url, tmp_path
        ) as worker,
        worker.running("-P", "gevent", "-c", "8", TEST_BROKER=url),
    ):
        worker.notes.flushdb()
        worker.send("tick")
        worker.wait(lambda: worker.notes.get("ticks"))
        big = worker.send("length", "x" * 100_000)
        assert slow.held.wait(30)
        before = int(worker.notes.get("ticks") or 0)
        worker.wait(lambda: int(worker.notes.get("ticks") or 0) > before + 20)
        assert not big.ready(), "the message was not held up: nothing was proved"
        slow.go.set()
        assert big.get(timeout=30) == 100_000
        worker.notes.set("stop", 1)
        assert worker.end() == 0


def test_tcp_valkey_with_a_password(tmp_path: Path) -> None:
    """A broker over TCP with a password works as one on a socket."""
    with ValkeyServer(tcp=True, own=True) as server:
        urls = server.broker_url, server.broker_url, server.url
        with Worker(*urls, tmp_path) as worker, worker.running():
            assert worker.send("nap", 0.01).get(timeout=10) == "done"
            assert worker.end() == 0


def test_a_broker_that_restarts_is_consumed_from_again(tmp_path: Path) -> None:
    """After the broker is back, what was queued runs, and remote control answers."""
    with ValkeyServer(own=True) as server:
        urls = server.broker_url, server.broker_url, server.url
        with Worker(*urls, tmp_path) as worker, worker.running():
            assert worker.send("nap", 0.01).get(timeout=10) == "done"
            server.restart()
            worker.wait(lambda: "Connection to broker lost" in worker.text())
            assert worker.send("nap", 0.01).get(timeout=20) == "done"
            worker.wait(lambda: worker.app.control.inspect(timeout=1).ping())
            assert worker.end() == 0
