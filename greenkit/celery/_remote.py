"""Commands a worker answers: `inspect greenkit`, `control greenkit_pool`, `time_limit` that takes effect.

`celery -A proj inspect greenkit` prints what every worker's pools, limits and watchdog say, and
what its longest tasks wait for. The asking side loads this file too, to check its arguments.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

import click
from celery.worker import control
from celery.worker.control import Panel, control_command, inspect_command

from greenkit import facts, watchdog

if TYPE_CHECKING:
    from greenkit.celery._job import Job

__all__ = ["pool_size", "register", "report", "time_limit", "withdraw"]

_celerys_time_limit = control.time_limit
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
    """Return the number `word` is; what else it may be is a line for the user, not a traceback."""
    try:
        return int(word)
    except ValueError:
        raise click.UsageError(f"{word!r} is no whole number") from None


def _seconds(word: Any) -> float:
    try:
        return float(word)
    except ValueError:
        raise click.UsageError(f"{word!r} is no number of seconds") from None


def report(state: Any, most: int = 20, **_: Any) -> dict[str, Any]:
    """Pools, limits, connections and hub lag of this worker, and its longest running tasks."""
    running = getattr(state.consumer.pool, "running", None)
    jobs = running()[: max(0, _whole(most))] if running is not None else []
    return {**facts.snapshot(), "tasks": [_told(job) for job in jobs]}


def pool_size(state: Any, slots: int | None = None, **_: Any) -> dict[str, str]:
    """Say how full the pool is; with a number, give it that many slots first."""
    consumer, pool = state.consumer, state.consumer.pool
    if slots is not None:
        if consumer.controller.autoscaler:
            return {"error": "the autoscaler decides about slots; move its limits: control autoscale MAX MIN"}
        change = _whole(slots) - pool.num_processes
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


def time_limit(
    state: Any, task_name: str | None = None, hard: float | None = None, soft: float | None = None, **_: Any
) -> Any:
    """Change the time limits of a task by name, for its runs from now on.

    Celery changes the task, but a running worker has copied the limits into its request classes
    (celery/worker/request.py 5.7, `create_request_cls`); so those are made anew.
    """
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
    if frame is None or at.startswith(f"{frame.f_code.co_filename}:{frame.f_lineno} "):
        return ""
    name = getattr(frame.f_code, "co_qualname", frame.f_code.co_name)  # 3.11
    return f"{frame.f_globals.get('__name__', '')}.{name}"
