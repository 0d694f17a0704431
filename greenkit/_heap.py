"""Look at objects of the whole process in one moment, and hold none of them afterwards.

Another thread runs between two byte codes of ours. A tuple that it is building, and that a list of ours
holds then, is a SystemError in *its* code (CPython's `_PyTuple_Resize`); greenlets that it switches move the
C stack of frames we walk. So a walk is *one* call of a C function made of C functions: no byte code runs in
between, and only byte code hands over. On 3.10 and 3.11 an allocation may start a garbage collection, whose
finalizers are byte code; it is off meanwhile.
"""

from __future__ import annotations

import gc
import sys
from itertools import chain, compress, starmap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

__all__ = ["atomically", "instances", "once", "with_subclasses"]

once: tuple[tuple[()], ...] = ((),)
"""`starmap(f, once)` calls f() once, lazily."""
_get_objects = gc.get_objects  # the C function: `boot` puts another in its place while gevent patches
# From 3.12 on a collection runs between byte codes only (CPython's gc.c: _PyGC_Collect by the eval breaker).
_COLLECTS_ANYWHERE = sys.version_info < (3, 12)


def atomically(things: Iterable[Any]) -> list[Any]:
    """Return what the C iterators yield, up to their end or an AttributeError or KeyError, in one moment."""
    taken: list[Any] = []
    if not _COLLECTS_ANYWHERE:
        try:
            taken.extend(things)
        except (AttributeError, KeyError):
            pass  # the end of the walk; list.extend() keeps the items so far
        return taken
    try:
        taken.extend(chain(starmap(gc.isenabled, once), starmap(gc.disable, once), things))
    except (AttributeError, KeyError):
        pass
    if taken[0]:
        gc.enable()
    return taken[2:]


def instances(kinds: Iterable[type], generation: int | None = None) -> list[Any]:
    """Return the objects alive whose type is one of `kinds`, subclasses not among them.

    The type is compared by identity: `isinstance` would evaluate every lazy proxy in the process.

    Args:
        kinds: Types whose objects the collector knows.
        generation: One of the collector's generations; None for all.
    """
    wanted = set(map(id, kinds))
    held: list[list[Any]] = []
    # Not `tee`: its blocks are in the list too, a cycle that holds everything until the next collection.
    hold = map(held.append, map(_get_objects, (generation,)))
    types = map(type, chain.from_iterable(held))
    # One item more than types, so that both come to their end, where an iterator drops its list.
    found = compress(chain(chain.from_iterable(held), (None,)), map(wanted.__contains__, map(id, types)))
    let_go = starmap(held.clear, once)
    return [thing for thing in atomically(chain(hold, found, let_go)) if thing is not None]


def with_subclasses(kind: type) -> set[type]:
    """Return `kind` and every class below it."""
    return {kind}.union(*map(with_subclasses, type.__subclasses__(kind)))
