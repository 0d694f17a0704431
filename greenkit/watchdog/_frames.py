"""Take another thread's frames, and find its running greenlet, each in one moment.

Walking frames of a running thread step by step kills the process: between two `f_back` in Python code
the interpreter may hand over, the thread runs on and switches greenlets, and the C stack those frames
hang from is moved away (seen as segmentation faults on CPython 3.11). So the whole walk is *one* call of
a C function made of C functions: no byte code runs in between, and only byte code hands over. Allocation
may start a garbage collection on 3.10 and 3.11, whose finalizers are byte code; it is off for that moment.
"""

from __future__ import annotations

import gc
import sys
from itertools import accumulate, chain, compress, repeat, starmap, tee
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any

from greenlet import greenlet

if TYPE_CHECKING:
    from types import CodeType, FrameType

__all__ = ["greenlets_of", "is_of", "oldest", "running_greenlet", "take", "take_suspended"]

_once: tuple[tuple[()], ...] = ((),)  # starmap(f, _once) calls f() once, when it is asked for
_facts = attrgetter("f_code", "f_lineno", "f_lasti")
# From 3.12 on a collection runs between byte codes only (CPython's gc.c: _PyGC_Collect by the eval breaker).
_COLLECTS_ANYWHERE = sys.version_info < (3, 12)


def take(thread: int) -> list[tuple[FrameType, tuple[CodeType, int, int]]]:
    """Return [(frame, (code, line, instruction offset)), …] of `thread`, innermost first; [] without frames.

    Drop the frames before waiting for anything: they keep alive what the thread's locals name.

    Switches: never.
    """
    innermost = map(itemgetter(thread), starmap(sys._current_frames, _once))
    frames, again = tee(accumulate(chain(innermost, repeat("f_back")), getattr))
    # Ends by the KeyError of a thread without frames or the AttributeError of the None behind the last.
    return _in_one_moment(zip(frames, map(_facts, again), strict=False))


def take_suspended(one: Any) -> list[tuple[FrameType, tuple[CodeType, int, int]]]:
    """Return what `take()` does of a suspended greenlet of any thread; [] when it runs, or has no frame.

    Switches: never.
    """
    # `gr_frame` is asked for in the same moment: what is suspended now may run on in the next.
    innermost = map(attrgetter("gr_frame"), repeat(one, 1))
    frames, again = tee(accumulate(chain(innermost, repeat("f_back")), getattr))
    return _in_one_moment(zip(frames, map(_facts, again), strict=False))


def oldest(hub: Any, count: int) -> list[Any]:
    """Return `count` greenlets of `hub` at most, those that have lived longest first.

    Switches: never.
    """
    # The collector keeps what has survived longest in its last generation, and each in the order of birth.
    every = [one for generation in (2, 1, 0) for one in _greenlets(generation)]
    return [one for one in every if is_of(one, hub)][:count]


def running_greenlet(hub: Any) -> Any:
    """Return the greenlet that runs now in `hub`'s thread, for the eyes of another thread; None when unsure.

    It is the one that has begun, has no frame to show since it is not suspended, and has `hub` for a parent.

    Switches: never.
    """
    main = greenlet.parent.__get__(hub)
    every = (one for one in _greenlets() if one is not hub and (one is main or _under(one, hub)))
    running = [one for one in every if _runs(one)]
    return running[0] if len(running) == 1 else None


def greenlets_of(hub: Any) -> list[Any]:
    """Return the greenlets of `hub` that have begun and not ended, itself and the main one aside.

    Switches: never.
    """
    return [one for one in _greenlets() if is_of(one, hub)]


def is_of(found: Any, hub: Any) -> bool:
    """Tell whether a greenlet has begun, has not ended, and is `hub`'s; the hub is none of its own.

    Switches: never.
    """
    return found is not None and found is not hub and greenlet.__bool__(found) and _under(found, hub)


def _greenlets(generation: int | None = None) -> list[Any]:
    kinds = {id(kind) for kind in _kinds(greenlet)}
    objects, types = tee(chain.from_iterable(map(gc.get_objects, (generation,))))
    # By the identity of the type: `isinstance` would evaluate every lazy proxy in the process.
    return _in_one_moment(compress(objects, map(kinds.__contains__, map(id, map(type, types)))))


def _in_one_moment(things: Any) -> list[Any]:
    taken: list[Any] = []
    if not _COLLECTS_ANYWHERE:
        try:
            taken.extend(things)
        except (AttributeError, KeyError):
            pass  # list.extend() keeps what it had
        return taken
    try:
        taken.extend(chain(starmap(gc.isenabled, _once), starmap(gc.disable, _once), things))
    except (AttributeError, KeyError):
        pass
    if taken[0]:
        gc.enable()
    return taken[2:]


def _kinds(kind: type) -> set[type]:
    return {kind}.union(*map(_kinds, type.__subclasses__(kind)))


def _runs(one: Any) -> bool:
    # By greenlet's own descriptors: gevent's subclasses mean something else by truth.
    return greenlet.__bool__(one) and greenlet.gr_frame.__get__(one) is None


def _under(one: Any, hub: Any) -> bool:
    parent = greenlet.parent.__get__(one)
    while parent is not None:
        if parent is hub:
            return True
        parent = greenlet.parent.__get__(parent)
    return False
