"""A Celery worker on gevent that keeps its word.

`install(app)` in the app module is all a project adds. Here live the pool, the event loop that
writes to the broker from one greenlet, time limits and hooks; the patch itself is `greenkit.boot`'s.
What needs gevent is loaded when it is asked for: a web process that only sends tasks imports this
door too, and so does every `celery` command.
"""

from __future__ import annotations

# First: under `-P custom` everything after it must find a patched process.
from greenkit.celery import _early as _early
from greenkit.celery._install import install, uninstall
from greenkit.celery._lifespan import on_worker_start, on_worker_stop
from greenkit.celery._options import Options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from greenkit.celery._doctor import check
    from greenkit.celery._job import current_permit, current_task_id
    from greenkit.celery._log_fields import TaskFields, add_task_fields, log_fields
    from greenkit.celery._publish import PublishError, publish_group, publish_many
    from greenkit.celery.gevent import PoolStatistics, TaskPool

__all__ = [
    "Options",
    "PoolStatistics",
    "PublishError",
    "TaskFields",
    "TaskPool",
    "add_task_fields",
    "check",
    "current_permit",
    "current_task_id",
    "install",
    "log_fields",
    "on_worker_start",
    "on_worker_stop",
    "publish_group",
    "publish_many",
    "uninstall",
]

_FILES = {
    "PoolStatistics": "gevent",
    "PublishError": "_publish",
    "TaskFields": "_log_fields",
    "TaskPool": "gevent",
    "add_task_fields": "_log_fields",
    "check": "_doctor",
    "current_permit": "_job",
    "current_task_id": "_job",
    "log_fields": "_log_fields",
    "publish_group": "_publish",
    "publish_many": "_publish",
}


def __getattr__(name: str) -> object:
    file = _FILES.get(name)
    if file is None:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    # Late: see the module's docstring.
    from importlib import import_module

    value: object = getattr(import_module(f"{__name__}.{file}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_FILES})
