"""A Celery worker on gevent that keeps its word.

`install(app)` in the app module is all a project adds. Here live the pool, the event loop that
writes to the broker from one greenlet, time limits and hooks; the patch itself is `greenkit.boot`'s.
"""

from __future__ import annotations

# First: under `-P custom` everything after it must find a patched process.
from greenkit.celery import _early as _early
from greenkit.celery._gevent import PoolStatistics, TaskPool
from greenkit.celery._install import install, uninstall
from greenkit.celery._options import Options

__all__ = ["Options", "PoolStatistics", "TaskPool", "install", "uninstall"]
