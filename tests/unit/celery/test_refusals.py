"""A broker that refuses is waited for, after the first run and not before."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import amqp
import pytest
import redis
from kombu.exceptions import LimitExceeded, OperationalError

from greenkit.celery import _refusals
from greenkit.celery._refusals import Pause, RefusedError, wait_at_start, wait_for_refusing_broker
from greenkit.testing import FakeClock


class RefusalError(Exception):
    """What a transport raises when the broker does not take an order."""


class GoneError(Exception):
    """What it raises when the broker is not there."""


def consumer_that(raises: BaseException) -> Any:
    def loop(*args: object) -> None:
        raise raises

    return SimpleNamespace(loop=loop, channel_errors=(RefusalError,), connection_errors=(GoneError, OSError))


def test_a_refusal_in_the_loop_is_one_to_reconnect_on() -> None:
    """From then on a refusal while the consumer starts is, too; what was wrong before is not."""
    consumer = consumer_that(RefusalError("READONLY"))
    loop = wait_for_refusing_broker(consumer)
    assert RefusalError not in consumer.connection_errors
    with pytest.raises(RefusedError, match="READONLY") as caught:
        loop()
    assert isinstance(caught.value, consumer.connection_errors)
    assert consumer.connection_errors == (GoneError, OSError, RefusalError)
    with pytest.raises(RefusedError):
        loop()
    assert consumer.connection_errors == (GoneError, OSError, RefusalError)


@pytest.mark.parametrize("error", [GoneError(), SystemExit(0), AttributeError()])
def test_other_ends_of_the_loop_are_as_they_were(error: BaseException) -> None:
    """A lost connection, a shutdown and a defect are not refusals."""
    with pytest.raises(type(error)):
        wait_for_refusing_broker(consumer_that(error))()


def starts_and(raises: BaseException) -> None:
    """Start a consumer whose blueprint raises."""

    def start(parent: object) -> None:
        raise raises

    consumer = consumer_that(raises)
    consumer.channel_errors = (redis.ResponseError, amqp.ChannelError)
    consumer.blueprint = SimpleNamespace(start=start)
    wait_at_start(consumer)(consumer)


def test_producers_that_tasks_hold_are_waited_for() -> None:
    """Kombu's pool raises where a worker that comes back greets the others: that ends no worker."""
    with pytest.raises(RefusedError, match="all 10 producers are in use by tasks"):
        starts_and(LimitExceeded(10))


def test_a_connection_lost_while_the_others_are_greeted_is_a_lost_connection() -> None:
    """Kombu's producers name it in a class that is none of the transport's; Celery would end the worker."""
    with pytest.raises(ConnectionError, match="the broker does not answer: Connection reset by peer"):
        starts_and(OperationalError("Connection reset by peer"))


@pytest.mark.parametrize(
    "error",
    [
        redis.ReadOnlyError("You can't write against a read only replica."),
        redis.exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
        redis.ResponseError("MISCONF Valkey is configured to save RDB snapshots, but"),
        redis.ResponseError("NOREPLICAS Not enough good replicas to write."),
        redis.ResponseError("UNBLOCKED force unblock from blocking operation, instance state changed"),
        amqp.PreconditionFailed("unknown delivery tag 9", (60, 80)),
        amqp.PreconditionFailed("delivery acknowledgement on channel 1 timed out"),
    ],
)
def test_a_worker_that_starts_waits_for_a_state_to_pass(error: BaseException) -> None:
    """Connecting, mingling and declaring are refused as the loop is: reconnected on, from the first time."""
    with pytest.raises(RefusedError) as caught:
        starts_and(error)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [
        redis.ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"),
        redis.exceptions.NoPermissionError("this user has no permissions to run the 'set' command"),
        amqp.PreconditionFailed("inequivalent arg 'x-max-priority' for queue 'q'", (50, 10)),
        amqp.PreconditionFailed("inequivalent arg 'type' for exchange 'e'", (40, 10)),
        amqp.AccessRefused("access to queue 'q' refused", (50, 10)),
        GoneError(),
        RefusedError("of the loop"),
    ],
)
def test_what_is_wrong_from_the_start_still_ends_a_worker(error: BaseException) -> None:
    """A declaration that does not fit, a right that is missing: as it was."""
    with pytest.raises(type(error)) as caught:
        starts_and(error)
    assert caught.value is error


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    clock = FakeClock(start=1000.0)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock.advance(seconds)

    monkeypatch.setattr(_refusals, "monotonic", clock.now)
    monkeypatch.setattr(_refusals, "gevent", SimpleNamespace(sleep=sleep))
    return slept


def test_the_pause_grows_and_is_forgotten(slept: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that goes on refusing is asked less and less often; a lost connection is not our pause."""
    pause = Pause(consumer_that(RefusalError()))
    pause(GoneError())
    assert slept == []
    lengths = []
    for _ in range(7):
        slept.clear()
        pause(RefusalError("OOM"))
        lengths.append(sum(slept))
    assert lengths == pytest.approx([0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0])
    assert max(slept) <= 0.5


def test_a_worker_told_to_stop_does_not_wait_for_the_broker(
    slept: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM comes in the middle of the pause."""

    def shut_down() -> None:
        if len(slept) == 2:
            raise SystemExit

    monkeypatch.setattr(_refusals, "maybe_shutdown", shut_down)
    pause = Pause(consumer_that(RefusalError()))
    pause._seconds, pause._last = 10.0, 1000.0
    with pytest.raises(SystemExit):
        pause(RefusalError())
    assert sum(slept) == pytest.approx(1.0)
