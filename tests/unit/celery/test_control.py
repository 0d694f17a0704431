"""Arguments of remote control, which come from anybody who can reach the broker."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from gevent.event import AsyncResult

from greenkit.celery import TaskPool, _control

ODD: list[Any] = [
    "x",
    "",
    [],
    {},
    [1],
    {"a": 1},
    10**400,
    float("inf"),
    float("nan"),
    True,
    "9" * 5000,
    "\x00",
    b"5",
]


class Consumer:
    """What the commands reach of a consumer."""

    prefetch_multiplier = 4
    controller = SimpleNamespace(autoscaler=None)

    def __init__(self) -> None:
        self.pool = TaskPool(10)
        self.moved: list[int] = []
        self.fresh = 0

    def _update_prefetch_count(self, change: int) -> None:
        self.moved.append(change)

    def update_strategies(self) -> None:
        self.fresh += 1


@pytest.fixture
def state() -> Any:
    app = Celery("shop", set_as_current=False)

    @app.task(name="shop.work", shared=False, time_limit=30.0, soft_time_limit=20.0)
    def work() -> None:
        pass

    app.finalize()
    return SimpleNamespace(app=app, consumer=Consumer())


@pytest.mark.parametrize("odd", [*ODD, 1.5, "1.5", None, -1, 0, 20_000], ids=lambda value: repr(value)[:10])
def test_odd_slots_change_nothing(state: Any, odd: object) -> None:
    """An error, or without a number the state; the pool and the window are as before."""
    try:
        answer = _control.pool_size(state, slots=odd)
    except ValueError as exc:  # kombu's mailbox answers with it
        answer = {"error": str(exc)}
    assert ("ok" in answer) == (odd is None), answer
    assert (state.consumer.pool.limit, state.consumer.moved) == (10, [])


@pytest.mark.parametrize("odd", [*ODD, 1.5, -20, 10**6], ids=lambda value: repr(value)[:10])
def test_odd_steps_of_the_pool_change_nothing(state: Any, odd: Any) -> None:
    """Celery passes what `pool_grow` and `pool_shrink` are given on as it came."""
    pool = state.consumer.pool
    for move in pool.grow, pool.shrink:
        if move == pool.shrink and odd == -20:
            continue  # twenty slots more
        with pytest.raises((TypeError, ValueError)):
            move(odd)
    assert pool.limit == 10


@pytest.mark.parametrize(
    ("soft", "hard"),
    [
        *[(odd, None) for odd in ODD],
        *[(None, odd) for odd in ODD],
        (-1, -1),
        (5, 1),
        (1e308, 1e308),
        ("x", 5),
    ],
)
def test_odd_time_limits_change_nothing(state: Any, soft: object, hard: object) -> None:
    """The task keeps its limits, and runs on."""
    answer = _control.time_limit(state, task_name="shop.work", soft=soft, hard=hard)
    assert list(answer) == ["error"]
    task = state.app.tasks["shop.work"]
    assert (task.soft_time_limit, task.time_limit, state.consumer.fresh) == (20.0, 30.0, 0)


@pytest.mark.parametrize("name", [None, [], {}, 5, "shop.none"])
def test_an_odd_task_name_is_an_error(state: Any, name: object) -> None:
    """Not an exception about what can be hashed."""
    assert "error" in _control.time_limit(state, task_name=name, soft=1, hard=2)


@pytest.mark.parametrize(
    ("soft", "hard", "expected"),
    [(1, 2, (1.0, 2.0)), ("1", "2.5", (1.0, 2.5)), (0, 0, (None, None)), (None, 5, (None, 5.0))],
)
def test_right_time_limits_hold(state: Any, soft: object, hard: object, expected: tuple[object, ...]) -> None:
    """Numbers, as numbers or words of a command line; 0 and None are no limit."""
    assert "ok" in _control.time_limit(state, task_name="shop.work", soft=soft, hard=hard)
    task = state.app.tasks["shop.work"]
    assert (task.soft_time_limit, task.time_limit) == expected


@pytest.mark.parametrize(
    "limits", [{"timeout": "y"}, {"soft_timeout": "x"}, {"timeout": float("nan")}, {"timeout": -5}]
)
def test_a_limit_that_is_none_is_the_tasks_failure(limits: dict[str, object]) -> None:
    """Declared, or in a message of anybody: the task ends with a result, and its slot is free again."""
    pool = TaskPool(1)
    pool.start()
    for _ in range(2):
        failed = AsyncResult()
        pool.apply_async(lambda: (0, "ran", 0.0), error_callback=failed.set, **limits)
        assert "time_limit is" in failed.get(timeout=10).traceback
    pool.stop()
