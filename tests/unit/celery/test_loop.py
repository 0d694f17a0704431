"""Kombu's event loop, waiting through gevent."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import gevent
import pytest
from kombu.asynchronous.timer import Timer

from greenkit.celery._loop import GreenHub

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def loop() -> Iterator[GreenHub]:
    """A loop with a silent broker, whose next timer is a minute away as a heartbeat can be."""
    loop = GreenHub(Timer())
    loop.call_later(60.0, lambda: None)
    ours, brokers = socket.socketpair()
    loop.add_reader(ours, lambda: None)
    yield loop
    loop.close()
    ours.close()
    brokers.close()


def test_a_turn_ends_in_its_time_whatever_the_next_timer(loop: GreenHub) -> None:
    """A stopping worker does not wait for the heartbeat; kombu's own `run_once()` would."""
    with gevent.Timeout(5.0):
        loop.turn(0.0)
        loop.turn(0.001)
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.02):
        loop.run_once()


def test_a_turn_runs_what_was_left_to_do(loop: GreenHub) -> None:
    """The acks of the last tasks are sent by the turn after them."""
    sent: list[str] = []
    loop.call_soon(sent.append, "ack")
    with gevent.Timeout(5.0):
        loop.turn(0.0)
    assert sent == ["ack"]


def test_an_error_of_one_call_takes_no_other_along(loop: GreenHub) -> None:
    """The event that cannot be sent is raised when the acks queued around it have run, in their order."""
    sent: list[str] = []

    def fail(error: Exception) -> None:
        raise error

    loop.propagate_errors = (ConnectionError,)
    loop.call_soon(sent.append, "first")
    loop.call_soon(fail, ValueError("follows from it"))
    loop.call_soon(sent.append, "second")
    loop.call_soon(fail, ConnectionError("lost"))
    loop.call_soon(sent.append, "third")
    with pytest.raises(ConnectionError, match="lost"), gevent.Timeout(5.0):
        loop.turn(0.0)
    assert sent == ["first", "second", "third"]


def test_a_shutdown_among_the_calls_leaves_the_rest_to_do(loop: GreenHub) -> None:
    """`WorkerShutdown` is a `SystemExit`; the acks behind it are run by the next turn."""
    sent: list[str] = []

    def shut_down() -> None:
        raise SystemExit

    loop.call_soon(shut_down)
    loop.call_soon(sent.append, "ack")
    with pytest.raises(SystemExit), gevent.Timeout(5.0):
        loop.turn(0.0)
    loop.run_soon_quietly()
    assert sent == ["ack"]


def test_letting_a_lost_connection_go_raises_nothing(loop: GreenHub) -> None:
    """What was to be told comes first, then the acks in line, one that fails or not; the loop goes on."""
    told: list[str] = []

    def fail() -> None:
        raise AttributeError("a transport that has no client any more")

    loop.on_lost.append(lambda: told.append("lost"))
    loop.on_tick.add(fail)
    loop.call_soon(fail)
    loop.call_soon(told.append, "ack")
    loop.reset()
    assert told == ["lost", "ack"]
    ours, brokers = socket.socketpair()
    loop.add_reader(ours, lambda: None)
    with gevent.Timeout(5.0):
        loop.turn(0.0)
    ours.close()
    brokers.close()
