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
