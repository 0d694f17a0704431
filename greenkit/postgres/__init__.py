"""Cooperative access to PostgreSQL, and a connection pool that never exceeds its bound.

psycopg2's wait callback, patches for psycopg 3, deadlines for queries, the `ConnectionPool`, COPY and
LISTEN. Django's ENGINE is in `greenkit.django.postgresql`. A driver is imported when it is first used.
Called by applications, `greenkit.django` and `greenkit.celery`.
"""

from __future__ import annotations

from greenkit.errors import ConcurrentUseError
from greenkit.postgres._checks import check
from greenkit.postgres._copy_iter import copy_in, copy_out
from greenkit.postgres._deadline import deadline
from greenkit.postgres._engine import for_sqlalchemy
from greenkit.postgres._errors import PoolTimeout, QueryTimeout, TooManyRequests
from greenkit.postgres._install import install, installed, uninstall
from greenkit.postgres._listen import Notification, listen
from greenkit.postgres._pool import ConnectionPool
from greenkit.postgres._statistics import ConnectionPoolStatistics

__all__ = [
    "ConcurrentUseError",
    "ConnectionPool",
    "ConnectionPoolStatistics",
    "Notification",
    "PoolTimeout",
    "QueryTimeout",
    "TooManyRequests",
    "check",
    "copy_in",
    "copy_out",
    "deadline",
    "for_sqlalchemy",
    "install",
    "installed",
    "listen",
    "uninstall",
]
