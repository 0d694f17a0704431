"""Tell those who hold locks and waiters that they woke up in a forked child."""

from __future__ import annotations

import os
import weakref
from typing import Protocol

__all__ = ["Forkable", "after_fork"]


class Forkable(Protocol):
    """Know what to forget in a child."""

    def after_fork(self) -> None:
        """Forget the threads of the parent. Switches: never."""


def after_fork(thing: Forkable, /) -> None:
    """Have `thing.after_fork()` called in every child forked while it lives.

    Switches: never.
    """
    _things.add(thing)


def _tell() -> None:
    for thing in list(_things):
        thing.after_fork()


_things: weakref.WeakSet[Forkable] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_tell)
