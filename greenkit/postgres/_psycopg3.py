"""What psycopg 3 needs in a patched process.

It waits in C unless `select` was patched before its import; it knows no deadline for a query; and
it cancels an interrupted query for `KeyboardInterrupt` only, so a killed greenlet would leave its
connection in the middle of one. Where a version lacks the names used here, it is left as it is.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import gevent
import psycopg
import psycopg.connection
import psycopg.waiting
from greenlet import GreenletExit

from greenkit.postgres._deadline import current, lifted
from greenkit.postgres._errors import QueryTimeout, for_driver

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["install", "uninstall"]

_Timeout = for_driver(QueryTimeout, psycopg.OperationalError)
_before: dict[tuple[Any, str], Any] = {}


def install() -> None:
    """Have psycopg 3 wait where gevent sees it, keep deadlines, and cancel what is interrupted.

    Switches: never.
    """
    if _before:
        return
    waiting, connection = psycopg.waiting, psycopg.connection
    if waiting.wait is getattr(waiting, "wait_c", None):
        _set(waiting, "wait", waiting.wait_poll)
    interrupts = getattr(connection, "_INTERRUPTED", None)  # psycopg/connection.py, 3.2 and 3.3
    if isinstance(interrupts, tuple) and GreenletExit not in interrupts:
        _set(connection, "_INTERRUPTED", (*interrupts, GreenletExit, gevent.Timeout))
    _set(psycopg.Connection, "wait", _with_deadline(psycopg.Connection.wait))
    _set(waiting, "wait_conn", _with_deadline(waiting.wait_conn))


def uninstall() -> None:
    """Put back what `install()` found.

    Switches: never.
    """
    while _before:
        (module, name), value = _before.popitem()
        setattr(module, name, value)


def _set(module: Any, name: str, value: Any) -> None:
    _before[module, name] = getattr(module, name)
    setattr(module, name, value)


def _with_deadline(wait: Callable[..., Any]) -> Callable[..., Any]:
    """Return `wait` ending at the deadline in force; inside it psycopg cancels and drains."""

    @functools.wraps(wait)
    def wait_until(*args: Any, **options: Any) -> Any:
        until = current()
        if until.at == math.inf:
            return wait(*args, **options)
        timer = gevent.Timeout.start_new(until.remaining())
        try:
            # Lifted: a cancel after the deadline waits as well, within bounds of its own.
            with lifted():
                return wait(*args, **options)
        except gevent.Timeout as ended:
            if ended is not timer:
                raise
            raise _Timeout("the query or connect passed its deadline; it was cancelled") from None
        finally:
            timer.close()

    return wait_until
