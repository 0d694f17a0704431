"""Timeouts that the driver's own handlers catch as well.

Django, SQLAlchemy and most applications look for the driver's `OperationalError`; so a timeout
raised here is one of those *and* one of ours. The combined class is built when the driver is
known, because neither driver may be imported before it is used.
"""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

from greenkit.errors import GreenkitError, WaitTimeout

__all__ = ["PoolTimeout", "QueryTimeout", "for_driver"]


class PoolTimeout(GreenkitError):  # noqa: N818 - a timeout is the field's word
    """Say that no connection came free in time; nothing is held.

    What is raised is also the driver's `OperationalError`, and a `WaitTimeout` where the driver's
    classes allow it (psycopg 3; psycopg2's cannot be mixed with Python's `TimeoutError`).
    """


class QueryTimeout(GreenkitError):  # noqa: N818
    """Say that a query or a connect passed its deadline; the connection is gone.

    Also the driver's `OperationalError`, as `PoolTimeout` is.
    """


_T = TypeVar("_T", bound=GreenkitError)


def for_driver(kind: type[_T], operational_error: type[Exception] | None) -> type[_T]:
    """Return the subclass of `kind` that is also `operational_error` and `WaitTimeout`.

    Switches: never.
    """
    wanted: tuple[Any, Any] = (kind, operational_error)  # Any: mypy thinks classes unhashable
    combined: type[_T] = _combined(*wanted)
    return combined


@cache
def _combined(kind: Any, operational_error: Any) -> Any:
    bases = [kind, WaitTimeout]
    if operational_error is not None:
        bases.append(operational_error)
    try:
        return _build(kind, bases)
    except TypeError:
        # psycopg2.Error and OSError (behind TimeoutError) both have a C layout of their own:
        # one class cannot carry the two.
        bases.remove(WaitTimeout)
        return _build(kind, bases)


def _build(kind: type, bases: list[type]) -> type:
    return type(kind.__name__, tuple(bases), {"__module__": "greenkit.postgres", "__doc__": kind.__doc__})
