"""Which task a log record is about, as fields: for the standard library's logging, and for structlog.

The fields are the task's whose code logs: its greenlet, a greenlet it started, or a coroutine it called.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import gevent

from greenkit import facts
from greenkit.celery._job import current_job

if TYPE_CHECKING:
    from collections.abc import MutableMapping

__all__ = ["TaskFields", "add_task_fields", "log_fields"]

_listening: list[bool] = []


def log_fields() -> dict[str, Any]:
    """Return the fields of the running task, {} outside of one.

    `task_id`, `task_name`, `task_retries`, `greenlet` (the number of `worker_pid` in `inspect active`),
    `in_child` (a greenlet or coroutine of the task logs, not the task's own greenlet) and `limiter_waited`
    (seconds its permits took so far, once this has been called in the process).

    Switches: never.
    """
    _listen()
    job = current_job()
    if job is None:
        return {}
    return {
        "task_id": job.task_id,
        "task_name": str(getattr(job.task, "name", "")),
        "task_retries": int(getattr(job.request, "retries", 0) or getattr(_context(job), "retries", 0) or 0),
        "greenlet": job.number,
        "in_child": job.greenlet is not gevent.getcurrent(),
        "limiter_waited": round(job.limiter_waited, 3),
    }


def _context(job: Any) -> Any:
    return getattr(job.request, "_context", None)


class TaskFields(logging.Filter):
    """Add the fields of `log_fields()` to each record, "" outside of a task; put it on a handler.

    A formatter may then say `%(task_id)s`, and one that writes JSON finds them like those of `extra=`.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields and let the record through. Switches: never."""
        for name, value in {**_NONE, **log_fields()}.items():
            if not hasattr(record, name):  # what the program gave with extra= is its own
                setattr(record, name, value)
        return True


_NONE: dict[str, Any] = dict.fromkeys(
    ("task_id", "task_name", "task_retries", "greenlet", "in_child", "limiter_waited"), ""
)


def add_task_fields(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the fields of `log_fields()` to an event; a processor for structlog.

    Switches: never.
    """
    for name, value in log_fields().items():
        event.setdefault(name, value)
    return event


def _listen() -> None:
    if not _listening:
        _listening.append(True)
        facts.subscribe(_hear)


def _hear(fact: object) -> None:
    if isinstance(fact, facts.PermitGranted) and fact.waited:
        job = current_job()
        if job is not None:
            job.limiter_waited += fact.waited
