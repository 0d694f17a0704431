"""Protocols by which packages of one layer know each other: an admission gate and its pass.

A pool takes a limiter without importing its package; both know these two protocols.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Gate", "Pass"]


class Pass(Protocol):
    """Admit one piece of work; entering waits for it, leaving ends it."""

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
        """Report the actual costs; the difference is refunded or charged. Switches: never."""


class Gate(Protocol):
    """Decide when work may start; `greenkit.limits.Limiter` is one."""

    # `Any`: a limiter takes its own options (`priority=`) among the keywords.
    def permit(self, *, timeout: float | None = None, **costs: Any) -> Pass:
        """Return a pass for work of these costs; entering it takes the permit.

        Args:
            timeout: Seconds entering may wait; None waits for ever.
            costs: Cost by dimension name, such as `tokens=900`.
        """
