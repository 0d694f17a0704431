"""Name what a session reports its answers to, so that this room and `limits` stay strangers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Observer"]


class Observer(Protocol):
    """Learn from what a server answers; `greenkit.limits.Limiter` is one."""

    def observe(self, status: int, headers: Mapping[str, str], /) -> None:
        """Take one answer in: status and headers, whose names may have any case."""
