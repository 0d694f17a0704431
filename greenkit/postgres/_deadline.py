"""By when the queries of this greenlet must be done.

A context variable, so that it belongs to the greenlet and goes wherever its context is copied to
(`gevent.spawn` copies none). Read by the wait functions of both drivers.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from greenkit.wait import Deadline

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["current", "deadline", "for_query", "lifted", "passed"]

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
    """Return the deadline in force here; one that never comes when there is none.

    Switches: never.
    """
    return _current.get()


def for_query(seconds: float | None) -> Deadline:
    """Return the deadline of a query that begins now on a connection whose `query_timeout` is `seconds`.

    A `deadline()` in force replaces it, so that a block may give a long query more time.

    Switches: never.
    """
    until = _current.get()
    return until if seconds is None or until is not _NONE else Deadline.after(seconds)


def passed(seconds: float | None) -> str:
    """Return the words for a query that was cancelled at the end of its time. Switches: never."""
    if seconds is None or _current.get() is not _NONE:
        return "the query passed its deadline; it was cancelled"
    return (
        f"the query took longer than the pool's query_timeout ({seconds:g} s); it was cancelled. Give a long "
        "query more time with greenkit.postgres.deadline(seconds)."
    )


@contextmanager
def lifted(seconds: float | None = None) -> Iterator[None]:
    """Put the deadline out of force for a block that has `seconds` of its own: cleaning up has other bounds.

    Switches: never.
    """
    token = _current.set(_NONE if seconds is None else Deadline.after(seconds))
    try:
        yield
    finally:
        _current.reset(token)
