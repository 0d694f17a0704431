"""What psycopg 3 needs in a patched process.

It waits in C unless `select` was patched before its import, and it cancels an interrupted query
for `KeyboardInterrupt` only; a killed greenlet leaves its connection in the middle of a query.
Both are names of its modules; where a version lacks them, it is left as it is.
"""

from __future__ import annotations

from typing import Any

import gevent
import psycopg.connection
import psycopg.waiting
from greenlet import GreenletExit

__all__ = ["install", "uninstall"]

_before: dict[tuple[Any, str], Any] = {}


def install() -> None:
    """Have psycopg 3 wait where gevent sees it, and cancel the query of a killed greenlet.

    Switches: never.
    """
    waiting, connection = psycopg.waiting, psycopg.connection
    if waiting.wait is getattr(waiting, "wait_c", None):
        _set(waiting, "wait", waiting.wait_poll)
    interrupts = getattr(connection, "_INTERRUPTED", None)  # psycopg/connection.py, 3.2 and 3.3
    if isinstance(interrupts, tuple) and GreenletExit not in interrupts:
        _set(connection, "_INTERRUPTED", (*interrupts, GreenletExit, gevent.Timeout))


def uninstall() -> None:
    """Put back what `install()` found.

    Switches: never.
    """
    while _before:
        (module, name), value = _before.popitem()
        setattr(module, name, value)


def _set(module: Any, name: str, value: Any) -> None:
    _before.setdefault((module, name), getattr(module, name))
    setattr(module, name, value)
