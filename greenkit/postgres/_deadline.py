"""The deadline for the queries of the current greenlet.

A context variable: it belongs to the greenlet and is copied with its context (`gevent.spawn` copies none).
Read by the wait functions of both drivers.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from greenkit.wait import Deadline

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["CONNECT_TIMEOUT", "connect_timeout", "current", "deadline", "for_query", "lifted", "passed"]

CONNECT_TIMEOUT = 130.0
"""Seconds for a connect whose DSN names no `connect_timeout`, as in psycopg 3."""

_NONE = Deadline.after(None)
_current: ContextVar[Deadline] = ContextVar("greenkit.postgres.deadline", default=_NONE)


@contextmanager
def deadline(seconds: float | None) -> Iterator[Deadline]:
    """Give every query and connect inside the block `seconds` from now, all together.

    Nested deadlines do not extend each other: the earliest wins. When it passes, the running
    query is cancelled in the server, the connection is closed and `QueryTimeout` is raised.
    Needs `install()` (psycopg2); None sets no deadline of its own.

    Switches: never.
    """
    token = _current.set(Deadline.earliest(_current.get(), Deadline.after(seconds)))
    try:
        yield _current.get()
    finally:
        _current.reset(token)


def current() -> Deadline:
    """Return the deadline in force here; one that never comes when there is none."""
    return _current.get()


def for_query(seconds: float | None) -> Deadline:
    """Return the deadline of a query that begins now on a connection whose `query_timeout` is `seconds`.

    A `deadline()` in force replaces it, so that a block may give a long query more time.
    """
    until = _current.get()
    return until if seconds is None or until is not _NONE else Deadline.after(seconds)


def connect_timeout(parameters: Mapping[str, str]) -> float | None:
    """Return the `connect_timeout` of a parsed DSN, or libpq's environment's; None when it says "never"."""
    value = parameters.get("connect_timeout") or os.environ.get("PGCONNECT_TIMEOUT")
    if not value:
        return CONNECT_TIMEOUT
    return float(value) if float(value) > 0 else None


def passed(seconds: float | None) -> str:
    """Return the words for a query that was cancelled at the end of its time."""
    if seconds is None or _current.get() is not _NONE:
        return "the query passed its deadline; it was cancelled"
    return (
        f"the query took longer than the pool's query_timeout ({seconds:g} s); it was cancelled. Give a long "
        "query more time with greenkit.postgres.deadline(seconds)."
    )


@contextmanager
def lifted(seconds: float | None = None) -> Iterator[None]:
    """Suspend the deadline for a block with `seconds` of its own, such as clean-up."""
    token = _current.set(_NONE if seconds is None else Deadline.after(seconds))
    try:
        yield
    finally:
        _current.reset(token)
