"""What rooms of the same floor know of each other: something that lets work through.

A pool takes a limiter, but the rooms are strangers; they meet in these two protocols.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Gate", "Pass"]


class Pass(Protocol):
    """Permission for one piece of work; entering waits for it, leaving ends it."""

    @property
    def waited(self) -> float:
        """Return the seconds entering took."""

    def __enter__(self) -> Pass:
        """Wait until the work may start. Switches: may."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool | None:
        """End the work; `error` is how it failed. Switches: never."""

    def settle(self, **costs: float) -> None:
        """Say what it really cost; the difference is refunded or charged. Switches: never."""


class Gate(Protocol):
    """Decide when work may start; `greenkit.limits.Limiter` is one."""

    # `Any`: a limiter has options of its own (`priority=`) among the keywords.
    def permit(self, *, timeout: float | None = None, **costs: Any) -> Pass:
        """Return a pass for work of these costs; it is taken by entering it.

        Args:
            timeout: Seconds entering may wait; None waits for ever.
            costs: Cost by dimension name, such as `tokens=900`.
        """
