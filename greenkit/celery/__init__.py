"""A Celery worker on gevent that keeps its word.

`install(app)` in the app module is all a project adds. Here live the pool, the event loop that
writes to the broker from one greenlet, time limits and hooks; the patch itself is `greenkit.boot`'s.
"""

from __future__ import annotations

# First: under `-P custom` everything after it must find a patched process.
from greenkit.celery import _early as _early
from greenkit.celery._gevent import PoolStatistics, TaskPool
from greenkit.celery._install import install, uninstall
from greenkit.celery._job import current_permit, current_task_id
from greenkit.celery._options import Options
from greenkit.celery._resources import on_worker_start, on_worker_stop

__all__ = [
    "Options",
    "PoolStatistics",
    "TaskPool",
    "current_permit",
    "current_task_id",
    "install",
    "on_worker_start",
    "on_worker_stop",
    "uninstall",
]
