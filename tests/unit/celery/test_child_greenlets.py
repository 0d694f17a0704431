"""Which greenlets count as a task's own, and what they inherit."""

from __future__ import annotations

import contextvars
import functools
import signal
import threading
from typing import TYPE_CHECKING, Any

import gevent
import pytest
from gevent.event import AsyncResult, Event

from greenkit.celery import Options, TaskPool, _child_greenlets, _upstream, current_task_id
from greenkit.celery._task_body import _edged
from greenkit.pool import GreenPool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


colour: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")


@pytest.fixture
def pool() -> Iterator[TaskPool]:
    made = TaskPool(2)
    made.settings = Options(children="join", kill_grace=0.01)
    made.start()
    yield made
    gevent.Greenlet.remove_spawn_callback(_child_greenlets._on_spawn)


def run(pool: TaskPool, body: Callable[[], Any], **limits: float) -> Any:
    """Return what `body` returned as a task of `pool`."""
    ended = AsyncResult()
    pool.apply_async(
        lambda: (0, _edged(body)(), 0.0),
        callback=lambda result: ended.set(result[1]),
        error_callback=lambda info: ended.set_exception(info.exception),
        timeout_callback=lambda soft, limit: soft or ended.set_exception(RuntimeError("hard limit")),
        **limits,
    )
    return ended.get(timeout=10)


def test_a_context_that_a_greenlet_brings_is_kept(pool: TaskPool) -> None:
    """One that has a context of its own before it starts, as those of a GreenPool, does not get another."""

    def body() -> str:
        child = gevent.Greenlet(colour.get)
        context = contextvars.copy_context()
        context.run(colour.set, "its own")
        child.gr_context = context
        child.start()
        return str(child.get(timeout=5))

    assert run(pool, body) == "its own"


def test_a_full_pool_in_a_task_does_not_wait_for_itself(pool: TaskPool) -> None:
    """A GreenPool knows its children by their context, and lends a full one's work the caller's slot."""

    def body() -> Any:
        with GreenPool(1) as crew:
            return crew.spawn(lambda: crew.spawn(lambda: "grandchild").get()).get()

    assert run(pool, body) == "grandchild"


def test_what_serves_the_process_is_no_child_of_the_task_that_started_it(pool: TaskPool) -> None:
    """A daemon thread and a signal's handler outlive a task that joins its children."""
    door, handled = Event(), Event()
    told: list[str | None] = []

    def handler(signum: int, frame: Any) -> None:
        told.append(current_task_id())
        handled.wait(5)

    class Daemon(threading.Thread):
        def run(self) -> None:
            door.wait(5)

    def body() -> str:
        gevent.spawn(Daemon(daemon=True).run)  # what start() comes to in a patched process
        _upstream._in_greenlet(handler, lambda: None)(signal.SIGTERM, None)
        return "ended"

    assert run(pool, body) == "ended"
    assert (told, handled.is_set()) == ([None], False)
    door.set()
    handled.set()


def test_a_greenlet_that_outlives_its_task_may_run_another_tasks_body(pool: TaskPool) -> None:
    """The edges are the task's: past its limit, a child neither dies of it nor joins itself."""
    inner = _edged(lambda: "inner")
    pool.settings = Options(children="ignore")
    door = Event()

    def body() -> Any:
        return gevent.spawn(lambda: door.wait(5) and inner())

    child = run(pool, body, timeout=0.01)
    gevent.spawn_later(0.02, door.set)  # past the limit
    assert child.get(timeout=5) == "inner"


def test_join_waits_for_grandchildren(pool: TaskPool) -> None:
    """A child may start another as its last act."""
    ended = Event()

    def body() -> str:
        gevent.spawn(gevent.spawn_later, 0.01, ended.set)
        return "left"

    assert run(pool, body) == "left"
    assert ended.is_set()


def test_a_function_left_behind_has_one_name(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a partial carries: the message comes once per function, and shows no arguments."""
    door = Event()

    def wait(_: str) -> None:
        door.wait(5)

    for secret in ("a", "b"):
        children = _child_greenlets.Children()
        children.add(gevent.spawn(functools.partial(wait, secret)))
        children.settle("report", "shop.task")
    door.set()
    (said,) = [one.getMessage() for one in caplog.records]
    assert "has_one_name.<locals>.wait running" in said


@pytest.mark.parametrize(("policy", "how"), [("join", "ended"), ("kill", "killed")])
def test_a_task_that_fails_leaves_nobody_behind_either(pool: TaskPool, policy: str, how: str) -> None:
    """Its children are joined or killed before the failure is noted."""
    pool.settings = Options(children=policy)
    fate: list[str] = []

    def body() -> None:
        gevent.spawn(note_fate, fate, 0.01 if policy == "join" else None)
        gevent.idle()
        raise ValueError("failed")

    with pytest.raises(Exception, match="failed"):
        run(pool, body)
    assert fate == [how]


def test_children_do_not_outlive_the_limit_of_a_task_that_joins_them(pool: TaskPool) -> None:
    """The task waits for them until its time is up; then they are killed with it."""
    fate: list[str] = []
    with pytest.raises(Exception, match="hard limit"):
        run(pool, lambda: gevent.spawn(note_fate, fate, None) and None, timeout=0.02)
    assert fate == ["killed"]


def note_fate(fate: list[str], seconds: float | None) -> None:
    try:
        Event().wait(seconds)
    except gevent.GreenletExit:
        fate.append("killed")
    else:
        fate.append("ended")
