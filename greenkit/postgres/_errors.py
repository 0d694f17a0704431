"""Timeouts that the driver's own handlers catch as well.

Django, SQLAlchemy and most applications look for the driver's `OperationalError`; so a timeout
raised here is one of those *and* one of ours. The combined class is built when the driver is
known, because neither driver may be imported before it is used.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypeVar

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


@lru_cache(maxsize=None)
def for_driver(kind: type[_T], operational_error: type[Exception] | None) -> type[_T]:
    """Return the subclass of `kind` that is also `operational_error` and `WaitTimeout`.

    Switches: never.
    """
    bases: tuple[type, ...] = (kind, WaitTimeout)
    if operational_error is not None:
        bases = (*bases, operational_error)
    try:
        return _build(kind, bases)
    except TypeError:
        # psycopg2.Error and OSError (behind TimeoutError) both have a C layout of their own:
        # one class cannot carry the two.
        return _build(kind, tuple(base for base in bases if base is not WaitTimeout))


def _build(kind: type[_T], bases: tuple[type, ...]) -> type[_T]:
    return type(kind.__name__, bases, {"__module__": "greenkit.postgres", "__doc__": kind.__doc__})
