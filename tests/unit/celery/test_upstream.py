"""What is patched in Celery for the releases that need it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from celery import Celery
from celery.backends.base import Backend
from celery.bootsteps import CLOSE, RUN
from redis.exceptions import TimeoutError as RedisTimeoutError

from greenkit.celery import _upstream
from greenkit.celery._upstream import Silence, publish_once, store_base_exceptions


def encode_of_celery_5_6(backend: Any, result: Any, state: str) -> Any:
    """As celery/backends/base.py has it there."""
    if state in backend.EXCEPTION_STATES and isinstance(result, Exception):
        return backend.prepare_exception(result)
    return backend.prepare_value(result)


@pytest.fixture
def backend() -> Any:
    return Celery("results", backend="cache+memory://", set_as_current=False).backend


def test_a_result_holds_an_exception_that_is_no_exception(backend: Any, monkeypatch: Any) -> None:
    """Celery before 5.7 hands `gevent.Timeout` to the serializer, which knows no such thing."""
    monkeypatch.setattr(Backend, "encode_result", encode_of_celery_5_6)
    assert isinstance(backend.encode_result(gevent.Timeout(1), "FAILURE"), gevent.Timeout)
    undo = store_base_exceptions()
    assert backend.encode_result(gevent.Timeout(1), "FAILURE")["exc_type"] == "Timeout"
    assert backend.encode_result({"a": 1}, "SUCCESS") == {"a": 1}
    undo()
    assert Backend.encode_result is encode_of_celery_5_6


def test_a_release_that_can_is_left_alone() -> None:
    """Celery 5.7 stores each `BaseException` itself."""
    before = Backend.encode_result
    undo = store_base_exceptions()
    if "BaseException" in before.__code__.co_names:
        assert Backend.encode_result is before
    undo()
    assert Backend.encode_result is before


class Consumer:
    """Collect what the loop is to run."""

    def __init__(self) -> None:
        self.blueprint = SimpleNamespace(state=RUN)
        self.soon: list[Any] = []
        self.hub = SimpleNamespace(call_soon=lambda *call: self.soon.append(call))

    def turn(self) -> None:
        while self.soon:
            function, *arguments = self.soon.pop()
            function(*arguments)


def unanswered(*_: Any) -> None:
    raise RedisTimeoutError("no answer")


def test_after_a_time_out_the_next_commands_fail_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for ever, and not the first one of a new connection."""
    now = [100.0]
    monkeypatch.setattr(_upstream, "monotonic", lambda: now[0])
    silence = Silence(Consumer())
    asked: list[float] = []

    def ask() -> None:
        silence.ask(lambda: asked.append(now[0]))

    with pytest.raises(RedisTimeoutError, match="no answer"):
        silence.ask(unanswered)
    with pytest.raises(RedisTimeoutError, match="command before"):
        ask()
    now[0] += 31
    ask()
    with pytest.raises(RedisTimeoutError, match="no answer"):
        silence.ask(unanswered)
    silence.forget()
    ask()
    assert asked == [131.0, 131.0]


@pytest.mark.parametrize("inside", [False, True])
def test_a_time_out_ends_the_connection_once(*, inside: bool) -> None:
    """The loop raises it, unless there is a new connection by then or the worker stops."""
    consumer = Consumer()
    silence = Silence(consumer)

    def time_out() -> None:
        with pytest.raises(RedisTimeoutError):
            silence.ask(lambda: silence.ask(unanswered) if inside else unanswered())

    time_out()
    assert len(consumer.soon) == 1
    with pytest.raises(ConnectionError, match="does not answer"):
        consumer.turn()
    silence.forget()
    time_out()
    silence.forget()
    consumer.turn()
    time_out()
    consumer.blueprint.state = CLOSE
    consumer.turn()


def test_an_event_that_cannot_be_sent_is_not_sent_again() -> None:
    """`retry` is asked for by each heartbeat; the loop raises what the dispatcher swallows."""
    consumer, calls = Consumer(), []
    connection = SimpleNamespace(connection_errors=(OSError,))
    publish_once(connection, consumer)

    def publish(body: str, *, fails: bool) -> str:
        calls.append(body)
        if fails:
            raise OSError("away")
        return body

    send = connection.ensure(None, publish, max_retries=None)
    assert send("first", fails=False) == "first"
    consumer.turn()
    with pytest.raises(OSError, match="away"):
        send("second", fails=True)
    assert calls == ["first", "second"]
    with pytest.raises(ConnectionError, match="away"):
        consumer.turn()
