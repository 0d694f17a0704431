"""The pools of this process, so that a forked child can forget its parent's connections."""

from __future__ import annotations

import os
import weakref
from typing import Protocol

__all__ = ["KnownPool", "add", "pools"]


class KnownPool(Protocol):
    """What a fork and the findings need of a `ConnectionPool`."""

    name: str

    @property
    def leaks(self) -> tuple[int, str]:
        """Return how many borrowers' ends cost a connection, and where the last of them borrowed."""

    @property
    def idle_holders(self) -> dict[str, float]:
        """Return, by line, the seconds a connection was held with no query running while callers waited."""

    def _after_fork(self) -> None:
        """Forget the parent's connections."""


_pools: weakref.WeakSet[KnownPool] = weakref.WeakSet()


def add(pool: KnownPool) -> None:
    """Know `pool` for as long as it lives."""
    _pools.add(pool)


def pools() -> list[KnownPool]:
    """Return the pools that are alive, by name."""
    return sorted(_pools, key=lambda pool: pool.name)


def _reset_after_fork() -> None:
    for pool in pools():
        pool._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)
