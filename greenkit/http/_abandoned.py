"""Find responses no caller reads any more, when their connections are what other calls wait for.

A caller that drops a half-read response mostly drops its last reference. Where the response is part of a
cycle (the SDKs' streams are, and so is what a traceback holds) only the garbage collector finds it, and in
a process whose calls all wait for a connection nothing makes the collector run.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

from greenkit._clock import MONOTONIC

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Reaper"]

# Seconds until the next look, after one that found nothing: a collection stops the whole process for a while.
_FRUITLESS = 10.0


class Reaper:
    """Collect garbage when every connection is held by a response."""

    __slots__ = ("_not_before",)

    def __init__(self) -> None:
        self._not_before = 0.0

    def look(self, count: Callable[[], int]) -> None:
        """Collect; `count` tells how many answers are out.

        Switches: never.
        """
        now = MONOTONIC.now()
        if now < self._not_before:
            return
        before = count()
        gc.collect()
        if count() >= before:
            self._not_before = now + _FRUITLESS
