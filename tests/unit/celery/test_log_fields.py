"""Which task a log record is about."""

from __future__ import annotations

import contextvars
import logging
from typing import TYPE_CHECKING, Any

import gevent
import pytest
from gevent.event import AsyncResult

from greenkit import facts
from greenkit.celery import Options, TaskFields, TaskPool, _child_greenlets, add_task_fields, log_fields
from greenkit.celery._task_body import _edged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def pool() -> Iterator[TaskPool]:
    made = TaskPool(2)
    made.settings = Options(children="ignore", kill_grace=0.01)
    made.start()
    yield made
    _child_greenlets.unwatch_spawns()


def run(pool: TaskPool, body: Callable[[], Any]) -> Any:
    """Return what `body` returned as a task of `pool`."""
    ended = AsyncResult()
    pool.apply_async(
        lambda: (0, _edged(body)(), 0.0),
        callback=lambda result: ended.set(result[1]),
        error_callback=lambda info: ended.set_exception(info.exception),
    )
    return ended.get(timeout=10)


def test_outside_of_a_task_there_are_none() -> None:
    """And a formatter that names them still formats."""
    assert log_fields() == {}
    record = logging.makeLogRecord({"msg": "hello"})
    assert TaskFields().filter(record)
    assert logging.Formatter("%(task_id)s|%(message)s").format(record) == "|hello"


def test_a_task_and_its_children_log_its_id(pool: TaskPool) -> None:
    """Its own greenlet, one it started, and code that only has its context, as a coroutine."""

    def body() -> list[dict[str, Any]]:
        context = contextvars.copy_context()
        raw: list[dict[str, Any]] = []
        stranger = gevent.Greenlet(lambda: raw.append(context.run(log_fields)))
        gevent.spawn_raw(stranger.run)
        gevent.idle()
        return [log_fields(), gevent.spawn(log_fields).get(timeout=5), *raw]

    mine, childs, coroutines = run(pool, body)
    assert mine["task_id"]
    assert mine["task_id"] == childs["task_id"] == coroutines["task_id"]
    assert (mine["in_child"], childs["in_child"], coroutines["in_child"]) == (False, True, True)


def test_what_the_program_gave_is_its_own(pool: TaskPool) -> None:
    """Fields of `extra=` and of an event are not written over."""

    def body() -> tuple[Any, Any]:
        record = logging.makeLogRecord({"task_name": "mine"})
        TaskFields().filter(record)
        return record.task_name, add_task_fields(None, "info", {"task_id": "mine"})

    name, event = run(pool, body)
    assert name == "mine"
    assert event["task_id"] == "mine"
    assert "greenlet" in event


def test_waits_for_permits_are_summed_up(pool: TaskPool) -> None:
    """Those of the task and of its greenlets, from the first call on; nobody else's."""
    log_fields()

    def body() -> Any:
        facts.emit(facts.PermitGranted("llm", 1.5))
        gevent.spawn(facts.emit, facts.PermitGranted("llm", 2.0)).join()
        return log_fields()["limiter_waited"]

    facts.emit(facts.PermitGranted("llm", 7.0))
    assert run(pool, body) == 3.5
    assert run(pool, body) == 3.5
