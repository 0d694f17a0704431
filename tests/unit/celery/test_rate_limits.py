"""Tasks with a limiter: out of the line while it refuses, in order, and never over the slots."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent.event import Event

from greenkit.celery import Options, TaskPool
from greenkit.celery._rate_limits import costs_of


class Gate:
    """A limiter that lets through what it is told to."""

    def __init__(self) -> None:
        self.free = 0
        self.ended: list[BaseException | None] = []
        self.asked: list[dict[str, float]] = []

    def try_permit(self, **costs: float) -> Any:
        self.asked.append(costs)
        if self.free <= 0:
            return Refusal()
        self.free -= 1
        return self

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.ended.append(error)


class Refusal:
    retry_after = 0.005

    def __bool__(self) -> bool:
        return False


def until_it_is_asked_again() -> None:
    due = Event()
    gevent.spawn_later(2 * Refusal.retry_after, due.set)
    assert due.wait(5)


class Request:
    """What Celery hands to the pool: bound callbacks, a task, arguments."""

    def __init__(self, pool: TaskPool, body: Any, task: Any, *args: Any) -> None:
        self.task, self.args, self.kwargs, self.id = task, args, {}, body
        self.calls: list[str] = []
        self.ended = Event()
        pool.apply_async(
            lambda: (0, body(), 0.0), accept_callback=self.on_accepted,
            callback=lambda result: self.end("success"), error_callback=lambda info: self.end("failure"),
        )  # fmt: skip

    def revoked(self) -> bool:
        return False

    def on_accepted(self, pid: int, at: float) -> None:
        self.calls.append("accept")

    def end(self, how: str) -> None:
        self.calls.append(how)
        self.ended.set()


@pytest.fixture
def pool() -> TaskPool:
    made = TaskPool(1)
    made.settings = Options(hold_limited=2)
    made.start()
    return made


def test_a_refused_task_holds_nobody_up(pool: TaskPool) -> None:
    """One slot, a limiter that refuses: the unlimited task behind runs, then the limited in order."""
    gate, order, places = Gate(), [], []
    pool.window = places.append
    limited = SimpleNamespace(name="limited", limits=gate)
    waiting = [Request(pool, lambda number=number: order.append(number), limited) for number in range(3)]
    other = Request(pool, lambda: order.append("other"), SimpleNamespace(name="free"))
    assert other.ended.wait(5)
    assert (order, pool.statistics().limited) == (["other"], 3)
    assert sum(places) == 2, "more places than hold_limited allows"
    gate.free = 3
    assert all(request.ended.wait(5) for request in waiting)
    gevent.idle()
    assert order == ["other", 0, 1, 2]
    assert (pool.statistics().limited, sum(places), gate.ended) == (0, 0, [None] * 3)


def test_the_limiter_is_asked_only_when_there_is_a_slot(pool: TaskPool) -> None:
    """A permit taken in front of a full pool would be wasted."""
    gate, door = Gate(), Event()
    gate.free = 5
    Request(pool, door.wait, SimpleNamespace(name="free"))
    behind = Request(pool, lambda: None, SimpleNamespace(name="limited", limits=gate))
    gevent.idle()
    assert gate.asked == []
    door.set()
    assert behind.ended.wait(5)
    assert len(gate.asked) == 1


def test_costs_are_numbers_or_functions_of_the_arguments() -> None:
    """`cost={"tokens": len}` is computed from the call."""
    task = SimpleNamespace(cost={"tokens": lambda text, **_: len(text), "requests": 2})
    assert costs_of(task, ("four",), {"more": 1}) == {"tokens": 4, "requests": 2}
    assert costs_of(SimpleNamespace(), (), {}) == {}


def test_a_cost_that_cannot_be_paid_is_the_tasks_failure(pool: TaskPool) -> None:
    """No wait helps, so it does not wait."""

    class Never:
        def try_permit(self, **costs: float) -> Any:
            raise ValueError("900 tokens never fit into 100")

    request = Request(pool, lambda: None, SimpleNamespace(name="limited", limits=Never()))
    assert request.ended.wait(5)
    assert request.calls == ["accept", "failure"]
    gevent.idle()
    assert pool.statistics().in_use == 0


def test_a_lost_connection_forgets_who_waits(pool: TaskPool) -> None:
    """Their messages come again; the copies here must not run too."""
    gate = Gate()
    request = Request(pool, lambda: None, SimpleNamespace(name="limited", limits=gate))
    gevent.idle()
    pool.flush()
    gate.free = 1
    Event().wait(0.02)
    assert (request.calls, pool.statistics().limited) == ([], 0)


def test_a_failing_cost_does_not_stop_the_line_behind_it(pool: TaskPool) -> None:
    """Two stand aside; the first cannot say what it costs. It fails, and the second has its turn."""
    gate, order = Gate(), []
    limited = SimpleNamespace(name="limited", limits=gate, cost={"tokens": len})
    first = Request(pool, lambda: order.append("first"), limited, "text")
    broken = Request(pool, lambda: order.append("broken"), limited, None)
    behind = Request(pool, lambda: order.append("behind"), limited, "text")
    assert pool.statistics().limited == 3, "the line under test never formed"
    gate.free = 2
    assert broken.ended.wait(5)
    assert behind.ended.wait(5)
    assert (order, broken.calls, first.calls) == (
        ["first", "behind"], ["accept", "failure"], ["accept", "success"],
    )  # fmt: skip


def test_a_worker_told_to_stop_while_a_limiter_is_asked_starts_nothing(pool: TaskPool) -> None:
    """The permit that comes then is given back, and the message is the broker's again."""

    class Slow(Gate):
        def try_permit(self, **costs: float) -> Any:
            pool.pause()
            return super().try_permit(**costs)

    gate = Slow()
    gate.free = 1
    request = Request(pool, lambda: None, SimpleNamespace(name="limited", limits=gate))
    gevent.idle()
    assert (request.calls, gate.ended, pool.statistics().in_use) == ([], [None], 0)


@pytest.mark.parametrize("free", [0, 1], ids=["refused", "admitted"])
def test_a_connection_lost_while_a_limiter_is_asked_takes_the_job_along(pool: TaskPool, free: int) -> None:
    """Not started, it is nobody's running task, does not run, stands in no line and keeps no permit."""
    moved: list[int] = []
    pool.window = moved.append
    in_hand: list[list[Any]] = []

    class Slow(Gate):
        def try_permit(self, **costs: float) -> Any:
            pool.hold()
            in_hand.append(pool.requests())
            pool.flush()
            return super().try_permit(**costs)

    gate = Slow()
    gate.free = free
    request = Request(pool, lambda: None, SimpleNamespace(name="limited", limits=gate))
    until_it_is_asked_again()
    assert (request.calls, gate.ended, in_hand, moved) == ([], [None] * free, [[]], [])
    assert (pool.statistics().in_use, pool.statistics().limited) == (0, 0)


def test_a_limiter_that_lets_go_after_a_loss_starts_nothing(pool: TaskPool) -> None:
    """Jobs that stood in its line when the connection was lost went back to the broker."""
    gate = Gate()
    request = Request(pool, lambda: None, SimpleNamespace(name="limited", limits=gate))
    assert pool.statistics().limited == 1
    pool.hold()
    gate.free = 1
    until_it_is_asked_again()
    pool.flush()
    until_it_is_asked_again()
    assert (request.calls, gate.free) == ([], 1)
