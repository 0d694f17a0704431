"""Take another thread's frames, and find its running greenlet, each atomically.

Walking frames of a running thread step by step kills the process: between two `f_back` in Python code the
interpreter may switch threads, the other thread switches greenlets, and the C stack of those frames is
moved away (seen as segmentation faults on CPython 3.11).
"""

from __future__ import annotations

import sys
from itertools import accumulate, chain, repeat, starmap, tee
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any

from greenlet import greenlet

from greenkit._heap import atomically, instances, once, with_subclasses

if TYPE_CHECKING:
    from types import CodeType, FrameType

__all__ = ["greenlets_of", "is_of", "oldest", "running_greenlet", "take", "take_suspended"]

_position = attrgetter("f_code", "f_lineno", "f_lasti")


def take(thread: int) -> list[tuple[FrameType, tuple[CodeType, int, int]]]:
    """Return [(frame, (code, line, instruction offset)), …] of `thread`, innermost first; [] without frames.

    Drop the frames before waiting for anything: they keep the thread's locals alive.
    """
    innermost = map(itemgetter(thread), starmap(sys._current_frames, once))
    frames, copies = tee(accumulate(chain(innermost, repeat("f_back")), getattr))
    # Ends with KeyError when the thread has no frames, else with AttributeError at the last f_back, None.
    return atomically(zip(frames, map(_position, copies), strict=False))


def take_suspended(suspended: Any) -> list[tuple[FrameType, tuple[CodeType, int, int]]]:
    """Do `take()` for a suspended greenlet of any thread; [] when it runs or has no frame."""
    # `gr_frame` is read inside the atomic call: a greenlet suspended now may run right after.
    innermost = map(attrgetter("gr_frame"), repeat(suspended, 1))
    frames, copies = tee(accumulate(chain(innermost, repeat("f_back")), getattr))
    return atomically(zip(frames, map(_position, copies), strict=False))


def oldest(hub: Any, count: int) -> list[Any]:
    """Return at most `count` greenlets of `hub`, oldest first."""
    # The collector keeps the oldest objects in its last generation, each generation in order of creation.
    every = [candidate for generation in (2, 1, 0) for candidate in _greenlets(generation)]
    return [candidate for candidate in every if is_of(candidate, hub)][:count]


def running_greenlet(hub: Any) -> Any:
    """Return the greenlet that runs now in `hub`'s thread, as seen from another thread; None when unsure.

    It has begun, has no frame to show since it is not suspended, and has `hub` as ancestor.
    """
    main = greenlet.parent.__get__(hub)
    every = (
        candidate
        for candidate in _greenlets()
        if candidate is not hub and (candidate is main or _under(candidate, hub))
    )
    running = [candidate for candidate in every if _runs(candidate)]
    return running[0] if len(running) == 1 else None


def greenlets_of(hub: Any) -> list[Any]:
    """Return the greenlets of `hub` that have begun and not ended, without itself and the main greenlet."""
    return [candidate for candidate in _greenlets() if is_of(candidate, hub)]


def is_of(found: Any, hub: Any) -> bool:
    """Tell whether a greenlet has begun, has not ended, and belongs to `hub`; the hub does not count."""
    return found is not None and found is not hub and greenlet.__bool__(found) and _under(found, hub)


def _greenlets(generation: int | None = None) -> list[Any]:
    return instances(with_subclasses(greenlet), generation)


def _runs(candidate: Any) -> bool:
    # Use greenlet's own descriptors: gevent's subclasses override truth.
    return greenlet.__bool__(candidate) and greenlet.gr_frame.__get__(candidate) is None


def _under(candidate: Any, hub: Any) -> bool:
    parent = greenlet.parent.__get__(candidate)
    while parent is not None:
        if parent is hub:
            return True
        parent = greenlet.parent.__get__(parent)
    return False
