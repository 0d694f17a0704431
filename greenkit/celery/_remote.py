"""Commands a worker answers: `inspect greenkit`, and `time_limit` that takes effect.

`celery -A proj inspect greenkit` prints what every worker's pools, limits and watchdog say, and
what its longest tasks wait for.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

from celery.worker import control
from celery.worker.control import Panel, control_command, inspect_command

from greenkit import facts

if TYPE_CHECKING:
    from greenkit.celery._job import Job

__all__ = ["register", "report", "time_limit", "withdraw"]

_celerys_time_limit = control.time_limit
_before: dict[str, tuple[Any, Any]] = {}
"""What Celery's panel held under our names, while we are there."""


def register() -> None:
    """Have the workers of this process answer these commands, and the command line know them."""
    if _before:
        return
    # Late: it loads this module.
    from greenkit.celery._doctor import answer

    for name in ("greenkit", "greenkit_doctor", "time_limit"):
        _before[name] = (Panel.data.get(name), Panel.meta.get(name))
    inspect_command(name="greenkit", args=[("most", int)], signature="[most=20]")(report)
    inspect_command(name="greenkit_doctor")(answer)
    control_command(
        args=[("task_name", str), ("soft", float), ("hard", float)],
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


def report(state: Any, most: int = 20, **_: Any) -> dict[str, Any]:
    """Pools, limits, connections and hub lag of this worker, and its longest running tasks."""
    running = getattr(state.consumer.pool, "running", None)
    jobs = running()[: int(most)] if running is not None else []
    return {**facts.snapshot(), "tasks": [_told(job) for job in jobs]}


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
    return {
        "id": job.task_id,
        "name": str(getattr(job.task, "name", "")),
        "greenlet": job.number,
        "seconds": 0.0 if job.started is None else round(monotonic() - job.started, 3),
        "children": len(job.children.alive()),
        "at": _place(job),
    }


def _place(job: Job) -> str:
    """Return file:line and function where the task waits, outside of gevent."""
    frame = getattr(job.greenlet, "gr_frame", None)
    while frame is not None and "/gevent/" in frame.f_code.co_filename:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}" if frame is not None else ""
