"""Name what a session reports its answers to, so that this room and `limits` stay strangers."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Observer", "check_observer", "report", "says_more"]

# An answer whose body tells what its status means: a rate, an overload, or an account without money.
_SAYS_MORE = frozenset({402, 429, 503, 529})


class Observer(Protocol):
    """Learn from what a server answers; `greenkit.limits.Limiter` is one."""

    def observe(self, status: int, headers: Mapping[str, str], /) -> None:
        """Take one answer in: status and headers, whose names may have any case.

        One that takes `body` too is given that of a 402, 429, 503 or 529, as bytes.
        """


if TYPE_CHECKING:
    # A function gets the address of a call, and returns who is told of its answer, such as a limiter's key.
    Observers = Observer | Callable[[str], Observer]


def says_more(status: int) -> bool:
    """Tell whether the body of an answer is to be read before an observer is told.

    Switches: never.
    """
    return status in _SAYS_MORE


def check_observer(observer: object) -> None:
    """Refuse what cannot be told of an answer.

    Switches: never.
    """
    if observer is not None and not hasattr(observer, "observe") and not callable(observer):
        raise TypeError(
            f"limiter= takes what has observe(status, headers), or a function of the address that returns it,"
            f" not {observer!r}"
        )


def report(observers: Observers, status: int, *, url: str, headers: Mapping[str, str], body: bytes) -> None:
    """Tell the observer, or that of this `url`, of an answer, with its body where it takes one."""
    # A limiter is asked by its method: one that can be called as well is no function of an address.
    told: Any = observers
    observe: Any = told.observe if hasattr(told, "observe") else told(url).observe
    if body and _takes_body(observe):
        observe(status, headers, body=body)
    else:
        observe(status, headers)


def _takes_body(observe: Any) -> bool:
    try:
        inspect.signature(observe).bind(429, {}, body=b"")
    except (TypeError, ValueError):
        return False
    return True
