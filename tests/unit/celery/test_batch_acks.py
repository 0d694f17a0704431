"""Acks of a Redis channel, batched."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import gevent
import pytest

from greenkit.celery._upstream import batch_acks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Broker:
    """What a channel's QoS and its pipeline do, with a round trip that lets others run."""

    def __init__(self) -> None:
        self.paid: list[list[str]] = []
        self.during_a_trip: Callable[[], None] = lambda: None
        self.fails = False

    def _remove_from_indices(self, tag: str, pipe: list[str]) -> None:
        pipe.append(tag)

    def _quick_ack(self, tag: str) -> None:
        pass

    @contextmanager
    def pipe_or_acquire(self) -> Iterator[Any]:
        class Pipe(list[str]):
            def execute(pipe) -> None:  # noqa: N805 - `self` is the broker
                gevent.sleep(0)
                self.during_a_trip()
                if self.fails:
                    raise ConnectionError
                self.paid.append(list(pipe))

        yield Pipe()


class Loop:
    """A loop that runs what it was given when told."""

    def __init__(self) -> None:
        self.todo: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.todo.append(callback)

    def turn(self) -> None:
        todo, self.todo = self.todo, []
        for callback in todo:
            callback()


def open_channel(broker: Broker, owed: list[str]) -> tuple[Any, Loop]:
    loop = Loop()
    batch_acks(SimpleNamespace(qos=broker), loop, owed)  # type: ignore[arg-type]
    return broker, loop


def test_acks_that_fall_together_leave_together() -> None:
    """Two acks before the loop turns are one round trip."""
    qos, loop = open_channel(Broker(), [])
    qos.ack("a")
    qos.ack("b")
    loop.turn()
    assert qos.paid == [["a", "b"]]


def test_an_ack_that_comes_during_the_trip_is_paid_in_the_same_turn() -> None:
    """Nobody schedules another flush while one is under way, so it must look again."""
    owed: list[str] = []
    qos, loop = open_channel(Broker(), owed)
    late = iter(["b"])
    qos.during_a_trip = lambda: [qos.ack(tag) for tag in late]
    qos.ack("a")
    loop.turn()
    assert (qos.paid, owed) == ([["a"], ["b"]], [])


def test_what_a_lost_connection_left_owed_is_paid_by_the_next_channel() -> None:
    """A failed trip forgets no ack; the channel after the reconnect sends it."""
    owed: list[str] = []
    qos, loop = open_channel(Broker(), owed)
    qos.fails = True
    qos.ack("a")
    with pytest.raises(ConnectionError):
        loop.turn()
    after, loop = open_channel(Broker(), owed)
    loop.turn()
    assert (after.paid, owed) == ([["a"]], [])
