"""The pools of this process, so that a forked child can forget its parent's connections."""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from greenkit.postgres._pool import ConnectionPool

__all__ = ["add", "pools"]

_pools: weakref.WeakSet[ConnectionPool[Any]] = weakref.WeakSet()


def add(pool: ConnectionPool[Any]) -> None:
    """Know `pool` for as long as it lives. Switches: never."""
    _pools.add(pool)


def pools() -> list[ConnectionPool[Any]]:
    """Return the pools that are alive, by name. Switches: never."""
    return sorted(_pools, key=lambda pool: pool.name)


def _reset_after_fork() -> None:
    for pool in pools():
        pool._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)
