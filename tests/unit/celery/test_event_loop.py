"""Kombu's event loop, waiting through gevent."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import gevent
import pytest
from celery.worker.consumer.consumer import Consumer
from kombu.asynchronous.timer import Timer
from kombu.utils.limits import TokenBucket

from greenkit.celery._event_loop import GreenHub
from greenkit.celery._upstream import run_rate_limits_by_one_timer

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
        loop.iterate(0.0)
        loop.iterate(0.001)
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.02):
        loop.run_once()


def test_a_turn_runs_what_was_left_to_do(loop: GreenHub) -> None:
    """The acks of the last tasks are sent by the turn after them."""
    sent: list[str] = []
    loop.call_soon(sent.append, "ack")
    with gevent.Timeout(5.0):
        loop.iterate(0.0)
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
        loop.iterate(0.0)
    assert sent == ["first", "second", "third"]


def test_a_shutdown_among_the_calls_leaves_the_rest_to_do(loop: GreenHub) -> None:
    """`WorkerShutdown` is a `SystemExit`; the acks behind it are run by the next turn."""
    sent: list[str] = []

    def shut_down() -> None:
        raise SystemExit

    loop.call_soon(shut_down)
    loop.call_soon(sent.append, "ack")
    with pytest.raises(SystemExit), gevent.Timeout(5.0):
        loop.iterate(0.0)
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
        loop.iterate(0.0)
    ours.close()
    brokers.close()


def test_all_timers_that_are_due_fire_in_one_turn(loop: GreenHub) -> None:
    """Not ten, with a second's wait before the next ten."""
    fired: list[int] = []
    for number in range(35):
        loop.call_later(0.0, fired.append, number)
    with gevent.Timeout(5.0):
        loop.iterate(0.0)
    assert sorted(fired) == list(range(35))


def test_a_timer_that_is_always_due_keeps_nothing_else_from_its_turn(loop: GreenHub) -> None:
    """The turn ends, the next begins at once, and greenlets run between the two."""
    fired: list[int] = []

    def again() -> None:
        fired.append(1)
        loop.call_later(0.0, again)

    again()
    assert loop.fire_timers() == 0.0
    others: list[int] = []
    gevent.spawn(others.append, 1)
    with gevent.Timeout(5.0):
        loop.run_once()
        loop.run_once()
    assert len(fired) < 100
    assert others == [1]


class Tasks:
    """The part of Celery's consumer that limits rates, as it is."""

    _schedule_bucket_request = Consumer._schedule_bucket_request
    _limit_task = Consumer._limit_task
    _limit_order = 0

    def __init__(self, timer: Timer) -> None:
        self.timer = timer
        self.went: list[int] = []
        self._limit_move_to_pool = self.went.append


def test_a_rate_limit_waits_by_one_timer() -> None:
    """A hundred tasks that wait for one bucket go one by one, in order, each by one timer."""
    consumer, bucket = Tasks(Timer()), TokenBucket(1000.0)
    run_rate_limits_by_one_timer(consumer)
    for number in range(100):
        consumer._limit_task(number, bucket, 1)
    timers = 0
    with gevent.Timeout(20.0):
        while bucket.contents:
            entries = [one for one in consumer.timer._queue if not one.entry.canceled]
            assert len(entries) == 1
            consumer.timer.clear()
            timers += 1
            bucket.timestamp -= 0.0011  # a token's time goes by
            entries[0].entry()
    assert consumer.went == list(range(100))
    assert timers <= 100


def test_rate_limits_of_many_tasks_are_due_at_once(loop: GreenHub) -> None:
    """Thirty kinds of tasks wait, each by a timer of its own: all go in one turn, where kombu lets ten."""
    loop.timer = Timer()
    consumer: Any = Tasks(loop.timer)
    run_rate_limits_by_one_timer(consumer)
    buckets = [TokenBucket(1e-9) for _ in range(30)]
    for number, bucket in enumerate(buckets):
        assert bucket.can_consume(1)
        consumer._limit_task(number, bucket, 1)
    assert (consumer.went, len(loop.timer._queue)) == ([], 30)
    loop.timer._queue[:] = [entry._replace(eta=entry.eta - 1e12) for entry in loop.timer._queue]
    for bucket in buckets:
        bucket._tokens = 1
    with gevent.Timeout(5.0):
        loop.fire_timers()
    assert sorted(consumer.went) == list(range(30))


def test_a_rate_limit_whose_timer_was_cancelled_starts_another() -> None:
    """Nothing waits for a timer that never fires."""
    consumer, bucket = Tasks(Timer()), TokenBucket(0.001)
    run_rate_limits_by_one_timer(consumer)
    for number in range(3):
        consumer._limit_task(number, bucket, 1)
    (only,) = consumer.timer._queue
    only.entry.cancel()
    consumer._limit_task(3, bucket, 1)
    assert [one.entry.canceled for one in consumer.timer._queue].count(False) == 1


def test_a_rate_limit_whose_timer_was_cleared_starts_another() -> None:
    """Celery 5.5 empties the timer when a connection is lost: the next task has a timer again."""
    consumer, bucket = Tasks(Timer()), TokenBucket(0.001)
    run_rate_limits_by_one_timer(consumer)
    for number in range(3):
        consumer._limit_task(number, bucket, 1)
    consumer.timer.clear()
    consumer._limit_task(3, bucket, 1)
    assert len(consumer.timer._queue) == 1
