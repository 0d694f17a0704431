"""Errors that handlers of the driver's own classes catch, too.

Django, SQLAlchemy and most applications catch the driver's classes; so each error is an instance of one of
those *and* of one of ours. The combined class is built when the driver is known, because neither driver may
be imported before it is used.
"""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

from greenkit.errors import GreenkitError, WaitTimeout

__all__ = ["PoolTimeout", "QueryTimeout", "TooManyRequests", "for_driver"]


class PoolTimeout(WaitTimeout):
    """Say that no connection came free in time; nothing is held.

    What is raised is also the driver's `OperationalError`.
    """


class TooManyRequests(GreenkitError):  # noqa: N818 - psycopg_pool's name for it
    """Say that as many as `max_waiting` wait for a connection already; nothing was waited for.

    What is raised is also the driver's `OperationalError`.
    """


class QueryTimeout(WaitTimeout):
    """Say that a query or a connect passed its deadline; the query was cancelled.

    Also the driver's `OperationalError`, as `PoolTimeout` is.
    """


_T = TypeVar("_T", bound=GreenkitError)


def for_driver(kind: type[_T], drivers: type[Exception] | None) -> type[_T]:
    """Return the subclass of `kind` that is also the class `drivers`, or `kind` without one."""
    wanted: tuple[Any, Any] = (kind, drivers)  # Any: mypy thinks classes unhashable
    combined: type[_T] = _combined(*wanted)
    return combined


@cache
def _combined(kind: Any, drivers: Any) -> Any:
    if drivers is None:
        return kind
    names = {"__module__": "greenkit.postgres", "__doc__": kind.__doc__}
    return type(kind.__name__, (kind, drivers), names)
