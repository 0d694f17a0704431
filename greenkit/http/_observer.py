"""Name what a session reports its answers to, so that this room and `limits` stay strangers."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Observer", "report", "says_more"]

# An answer whose body tells what its status means: a rate, an overload, or an account without money.
_SAYS_MORE = frozenset({402, 429, 503, 529})


class Observer(Protocol):
    """Learn from what a server answers; `greenkit.limits.Limiter` is one."""

    def observe(self, status: int, headers: Mapping[str, str], /) -> None:
        """Take one answer in: status and headers, whose names may have any case.

        One that takes `body` too is given that of a 402, 429, 503 or 529, as bytes.
        """


def says_more(status: int) -> bool:
    """Tell whether the body of an answer is to be read before anybody is told.

    Switches: never.
    """
    return status in _SAYS_MORE


def report(observer: Observer, status: int, *, headers: Mapping[str, str], body: bytes) -> None:
    """Tell `observer` of an answer, with its body where it takes one."""
    observe: Any = observer.observe
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
