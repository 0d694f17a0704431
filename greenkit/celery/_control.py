"""Commands a worker answers: `inspect greenkit`, `control greenkit_pool`, `time_limit` that takes effect.

`celery -A proj inspect greenkit` prints what every worker's pools, limits and watchdog say, and
what its longest tasks wait for. The asking side loads this file too, to check its arguments.
"""

from __future__ import annotations

from contextlib import suppress
from functools import wraps
from time import monotonic
from typing import TYPE_CHECKING, Any

import click
from celery.worker import control
from celery.worker.control import Panel, control_command, inspect_command

from greenkit import facts, watchdog
from greenkit.celery._apps import TOO_LATE, came_too_late
from greenkit.celery._options import LONGEST_LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable

    from greenkit.celery._job import Job

__all__ = ["pool_size", "register", "report", "time_limit", "withdraw"]

_celerys_time_limit = control.time_limit
# kombu switches the window off above it (kombu/common.py 5.7, `PREFETCH_COUNT_MAX`).
_LARGEST_WINDOW = 0xFFFF
_before: dict[str, tuple[Any, Any]] = {}
"""What Celery's panel held under our names, while we are there."""


def register() -> None:
    """Have the workers of this process answer these commands, and the command line know them."""
    if _before:
        return
    # Late: it loads this module.
    from greenkit.celery._doctor import answer

    for name in ("greenkit", "greenkit_doctor", "greenkit_pool", "time_limit"):
        _before[name] = (Panel.data.get(name), Panel.meta.get(name))
    inspect_command(name="greenkit", args=[("most", _whole)], signature="[most=20]")(report)
    inspect_command(name="greenkit_doctor")(answer)
    control_command(name="greenkit_pool", args=[("slots", _whole)], signature="[slots]")(pool_size)
    control_command(
        args=[("task_name", str), ("soft", _seconds), ("hard", _seconds)],
        signature="<task_name> <soft_secs> [hard_secs]",
    )(time_limit)


def withdraw() -> None:
    """Take `register()` back."""
    for name, (function, meaning) in _before.items():
        if function is None:
            del Panel.data[name], Panel.meta[name]
        else:
            Panel.data[name], Panel.meta[name] = function, meaning
    _before.clear()


def _whole(word: Any) -> int:
    """Return the whole number that `word`, from a command line or a message, is.

    Raises:
        UsageError: It is none; a line for the user, not a traceback.
    """
    number: Any = None
    if isinstance(word, (int, str)) and not isinstance(word, bool):
        with suppress(ValueError):  # more than 4,300 digits too
            number = int(word)
    if number is None:
        raise click.UsageError(f"{_short(word)} is no whole number")
    return int(number)


def _seconds(word: Any) -> float | None:
    """Return seconds; None for 0, which is no limit.

    Raises:
        UsageError: As `_whole()`.
    """
    number = -1.0
    if isinstance(word, (int, float, str)) and not isinstance(word, bool):
        with suppress(ValueError, OverflowError):
            number = float(word)
    if not 0.0 <= number <= LONGEST_LIMIT:  # NaN is not
        raise click.UsageError(f"{_short(word)} is no number of seconds from 0 to {LONGEST_LIMIT:.0f}")
    return number or None


def _short(word: Any) -> str:
    said = repr(word)
    return said if len(said) <= 40 else f"{said[:40]}…"


def _refusing(command: Callable[..., Any]) -> Callable[..., Any]:
    """Have what is wrong with the arguments of `command` be its answer, and nothing changed."""

    @wraps(command)
    def answer(state: Any, **arguments: Any) -> Any:
        try:
            return command(state, **arguments)
        except click.UsageError as exc:
            return {"error": exc.message}

    return answer


@_refusing
def report(state: Any, most: int = 20, **_: Any) -> dict[str, Any]:
    """Pools, limits, connections and hub lag of this worker, and its longest running tasks."""
    if came_too_late(state.app):
        return {"error": TOO_LATE}
    running = getattr(state.consumer.pool, "running", None)
    jobs = running()[: max(0, _whole(most))] if running is not None else []
    return {**facts.snapshot(), "tasks": [_told(job) for job in jobs]}


@_refusing
def pool_size(state: Any, slots: int | None = None, **_: Any) -> dict[str, str]:
    """Say how full the pool is; with a number, give it that many slots first."""
    consumer, pool = state.consumer, state.consumer.pool
    if slots is not None:
        if consumer.controller.autoscaler:
            return {"error": "the autoscaler decides about slots; move its limits: control autoscale MAX MIN"}
        wanted, most = _whole(slots), _LARGEST_WINDOW // max(1, consumer.prefetch_multiplier)
        if wanted > most:
            return {"error": f"{_short(slots)} slots: the prefetch window has room for {most} at most"}
        change = wanted - pool.num_processes
        if change:
            (pool.grow if change > 0 else pool.shrink)(abs(change))
            consumer._update_prefetch_count(change)
    told = getattr(pool, "statistics", None)
    if told is None:
        return {"ok": f"{pool.num_processes} slots"}
    now = told()
    return {
        "ok": f"{now.size} slots: {now.in_use} running, {now.waiting} waiting for one, "
        f"{now.limited} for their limiter; {now.ended} ended"
    }


@_refusing
def time_limit(
    state: Any, task_name: str | None = None, hard: float | None = None, soft: float | None = None, **_: Any
) -> Any:
    """Change the time limits of a task by name, for its runs from now on.

    Celery changes the task, but a running worker has copied the limits into its request classes
    (celery/worker/request.py 5.7, `create_request_cls`); so those are made anew.
    """
    if not isinstance(task_name, str):
        raise click.UsageError(f"{_short(task_name)} is no name of a task")
    hard, soft = (None if limit is None else _seconds(limit) for limit in (hard, soft))
    if hard is not None and soft is not None and soft > hard:
        raise click.UsageError(f"the soft limit of {soft:g} s comes after the hard limit of {hard:g} s")
    answer = _celerys_time_limit(state, task_name=task_name, hard=hard, soft=soft)
    if "ok" in answer:
        state.consumer.update_strategies()
    return answer


def _told(job: Job) -> dict[str, Any]:
    at = watchdog.whereabouts(job.greenlet) if job.greenlet is not None else ""
    return {
        "id": job.task_id,
        "name": str(getattr(job.task, "name", "")),
        "greenlet": job.number,
        "seconds": 0.0 if job.started is None else round(monotonic() - job.started, 3),
        "children": len(job.children.alive()),
        "at": at,
        "on": _call(job, at),
    }


def _call(job: Job, at: str) -> str:
    """Return the innermost function below the line `at`, such as `gevent.hub.sleep`; "" when that is C's."""
    frame = getattr(job.greenlet, "gr_frame", None)
    while frame is not None and frame.f_globals.get("__name__") == "greenkit.boot._running_loop":
        frame = frame.f_back  # stands around gevent's switch where asyncio is used
    if frame is None or at.startswith(f"{frame.f_code.co_filename}:{frame.f_lineno} "):
        return ""
    name = getattr(frame.f_code, "co_qualname", frame.f_code.co_name)  # 3.11
    return f"{frame.f_globals.get('__name__', '')}.{name}"
