"""The differences between psycopg2 and psycopg 3 that a pool has to know.

The driver is detected from the connections a pool is given; nothing is imported to find out.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Protocol

from gevent import monkey

from greenkit.postgres import _closing

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Driver", "driver_of", "guess", "is_psycopg2", "raw", "status_of"]

IDLE, ACTIVE = 0, 1  # PQtransactionStatus; then INTRANS 2, INERROR 3, UNKNOWN 4


class Driver(Protocol):
    """Close what the pool throws away."""

    operational_error: type[Exception]
    errors: tuple[type[Exception], ...]
    """What a lost connection may raise."""

    def cooperative(self) -> bool:
        """Tell whether waiting may be left to the hub here."""

    def close(self, conn: Any) -> None:
        """Close an idle or broken `conn` and see its backend off."""

    def abandon(self, conn: Any) -> None:
        """Close a `conn` in the middle of a query, perhaps of another greenlet."""


class _Psycopg2:
    def __init__(self) -> None:
        import psycopg2

        self.operational_error: type[Exception] = psycopg2.OperationalError
        self.errors = (psycopg2.OperationalError, psycopg2.InterfaceError)

    def cooperative(self) -> bool:
        from greenkit.postgres._install import installed

        return bool(monkey.is_module_patched("socket")) or installed()

    def close(self, conn: Any) -> None:
        from greenkit.postgres._psycopg2 import forget

        forget(conn)
        _close(conn, cooperative=self.cooperative())

    def abandon(self, conn: Any) -> None:
        # No method of the connection: if a greenlet is inside, the call would stop the process.
        _closing.shut_down(conn.fileno())


class _Psycopg3:
    def __init__(self) -> None:
        import psycopg

        self.operational_error: type[Exception] = psycopg.OperationalError
        self.errors = (psycopg.OperationalError, psycopg.InterfaceError)

    def cooperative(self) -> bool:
        return bool(monkey.is_module_patched("socket"))

    def close(self, conn: Any) -> None:
        _close(conn, cooperative=self.cooperative())

    def abandon(self, conn: Any) -> None:
        try:
            conn.cancel_safe(timeout=_closing.GRACE)
        except self.operational_error:
            pass  # the server is out of reach: closing is all that is left
        finally:
            self.close(conn)


def raw(thing: Any) -> Any:
    """Return the driver's own connection or cursor under the proxies that tracing agents put around it.

    What only looks (descriptor, status, closing) takes the raw object; the user keeps the proxy, which
    records the queries.
    """
    while (inner := getattr(thing, "__wrapped__", None)) is not None:
        thing = inner
    # A proxy of another make still passes on the method that is needed, which knows its object.
    owner = getattr(getattr(thing, "fileno", None), "__self__", None)
    return thing if owner is None else owner


def is_psycopg2(thing: Any) -> bool:
    """Tell whether a connection or cursor, wrapped or not, is psycopg2's; psycopg 3's otherwise."""
    return any(kind.__module__.partition(".")[0] == "psycopg2" for kind in type(raw(thing)).__mro__)


def driver_of(conn: Any) -> Driver:
    """Return the adapter for the driver `conn` comes from.

    Raises:
        TypeError: Neither psycopg2 nor psycopg 3 made it.
    """
    for kind in type(raw(conn)).__mro__:
        name = kind.__module__.partition(".")[0]
        if name in _ADAPTERS:
            return _adapter(name)
    msg = f"connect() returned {conn!r}; a ConnectionPool takes connections of psycopg2 and psycopg"
    raise TypeError(msg)


def guess() -> Driver | None:
    """Return the adapter of a driver that is loaded, before any connection has shown which."""
    return next((_adapter(name) for name in _ADAPTERS if name in sys.modules), None)


def status_of(conn: Any) -> Callable[[], int]:
    """Return what reads libpq's transaction status; may be called while a greenlet is in a query."""
    of_psycopg2 = getattr(conn, "get_transaction_status", None)  # `info` would make an object each time
    if of_psycopg2 is not None:
        found: Callable[[], int] = of_psycopg2
        return found
    pgconn = conn.pgconn
    return lambda: int(pgconn.transaction_status)


_ADAPTERS: dict[str, Any] = {"psycopg2": _Psycopg2, "psycopg": _Psycopg3}


def _adapter(name: str) -> Driver:
    adapter: Driver = _ADAPTERS[name]()
    return adapter


def _close(conn: Any, *, cooperative: bool) -> None:
    if conn.closed:
        conn.close()
        return
    line = os.dup(conn.fileno())
    try:
        conn.close()
        _closing.close_and_wait(line, send_terminate=False, cooperative=cooperative)
    finally:
        os.close(line)
