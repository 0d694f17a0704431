"""Timeouts that the driver's own handlers catch as well.

Django, SQLAlchemy and most applications look for the driver's `OperationalError`; so a timeout
raised here is one of those *and* one of ours. The combined class is built when the driver is
known, because neither driver may be imported before it is used.
"""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

from greenkit.errors import WaitTimeout

__all__ = ["PoolTimeout", "QueryTimeout", "for_driver"]


class PoolTimeout(WaitTimeout):
    """Say that no connection came free in time; nothing is held.

    What is raised is also the driver's `OperationalError`.
    """


class QueryTimeout(WaitTimeout):
    """Say that a query or a connect passed its deadline; the connection is gone.

    Also the driver's `OperationalError`, as `PoolTimeout` is.
    """


_T = TypeVar("_T", bound=WaitTimeout)


def for_driver(kind: type[_T], operational_error: type[Exception] | None) -> type[_T]:
    """Return the subclass of `kind` that is also `operational_error`, or `kind` without a driver.

    Switches: never.
    """
    wanted: tuple[Any, Any] = (kind, operational_error)  # Any: mypy thinks classes unhashable
    combined: type[_T] = _combined(*wanted)
    return combined


@cache
def _combined(kind: Any, operational_error: Any) -> Any:
    if operational_error is None:
        return kind
    names = {"__module__": "greenkit.postgres", "__doc__": kind.__doc__}
    return type(kind.__name__, (kind, operational_error), names)
