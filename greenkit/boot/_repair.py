"""Mend a patched process in place: bind stale names again, replace free native objects, finish the patch.

Only what is safe. Never silent: every change is returned and kept in the record; what could not be
mended is still a finding.

Learnt the hard way: a lock somebody keeps a bound `acquire` of belongs to a Condition and must stay;
a class's dict is written through `type.__setattr__`, or the old value is served from the type cache;
a held lock stays.
"""

from __future__ import annotations

import gc
import sys
from types import BuiltinMethodType

from greenkit.boot._bind import bind
from greenkit.boot._drivers import serve_drivers
from greenkit.boot._events import GUARD
from greenkit.boot._graph import CLASS_DICT, namespace_of
from greenkit.boot._plan import EFFECTS, PLAN
from greenkit.boot._proof import clones, missing_steps, undone
from greenkit.boot._record import RECORD
from greenkit.boot._scan import came_late, is_standard, keeps_requests_apart, kind_of, owner_of, survey
from greenkit.boot._shown import is_library

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from greenkit.boot._graph import Hold
    from greenkit.boot._scan import StaleReference

    Survey = tuple[Iterable[StaleReference], Iterable[Hold]]

__all__ = ["CELERY_FAMILY", "repair"]

CELERY_FAMILY = frozenset({"amqp", "billiard", "celery", "kombu", "redis", "vine"})
"""Packages whose globals were tried one by one: binding them again does what an early patch does."""


def repair(*, only: frozenset[str] | None = None, seen: Survey | None = None) -> tuple[str, ...]:
    """Mend what can be mended safely; return a line for each change.

    Steps of the patch that were left out are done, what was put back is patched again, a private copy
    in a module of yours gives way to the patched module, stale names are bound again, free native
    objects replaced, and drivers without their hook served. What cannot follow (open sockets, TLS
    contexts, held locks, base classes of another layout) stays, and stays a finding of `evidence()`.
    Best right after the patch: what is made from a stale name later is native again.

    Args:
        only: Top-level packages to touch, and their names only; None for all that is safe.
        seen: A survey that was made already; None looks at the process.

    Switches: may, when a driver is served.
    """
    _let_kombu_look_again()
    done = [] if only is not None else [*_complete(), *_put_back(), *_use_the_patched()]
    references, natives = survey() if seen is None or done else seen
    for one in references:
        if one.hold is None or one.deliberate or not _may_touch(one, only):
            continue
        current = _current(one.original)
        if current is not None and bind(one.hold, current):
            done.append(f"{one.holder} -> {'.'.join(one.original)}")
    if only is None:
        done += [*_replace(natives), *serve_drivers()]
    RECORD.repaired += tuple(done)
    return tuple(done)


def _let_kombu_look_again() -> None:
    # kombu 5.7 `utils/compat.py` keeps its answer to "default or gevent?" and picks its poller by it.
    compat = sys.modules.get("kombu.utils.compat")
    if compat is not None and getattr(compat, "_environment", None) == "default":
        compat.__dict__["_environment"] = None


def _complete() -> list[str]:
    missing = missing_steps()
    if not missing or len(missing) == len(PLAN):
        return []
    # Late: warnings is loaded by now. gevent's own warning would say what we say.
    import warnings

    with GUARD, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sys.modules["gevent.monkey"].patch_all()
    return [f"patch_all({step.name}=True)" for step in missing]


def _put_back() -> list[str]:
    done = []
    for module, attribute in undone():
        fresh = (namespace_of(sys.modules.get(f"gevent.{module}")) or {}).get(attribute)
        if fresh is not None:
            sys.modules[module].__dict__[attribute] = fresh
            done.append(f"{module}.{attribute} -> gevent.{module}.{attribute}")
    return done


def _use_the_patched() -> list[str]:
    done = []
    for holder, attribute, name in clones():
        if not is_library(holder):
            sys.modules[holder].__dict__[attribute] = sys.modules[name]
            done.append(f"{holder}.{attribute} -> the patched {name}")
    return done


def _replace(natives: Iterable[Hold]) -> list[str]:
    done = []
    replaced: dict[int, Any] = {}
    for hold in natives:
        if came_late(hold.module):
            continue
        fresh = replaced.get(id(hold.thing)) or _fresh(hold)
        if fresh is not None and bind(hold, fresh):
            replaced[id(hold.thing)] = fresh
            done.append(f"{hold.module}.{hold.path} -> a new {type(fresh).__name__}")
    return done


def _may_touch(one: StaleReference, only: frozenset[str] | None) -> bool:
    root = one.module.partition(".")[0]
    if only is not None:
        return root in only
    if root in CELERY_FAMILY or not is_library(one.module):
        return True
    return EFFECTS[one.original].word in {"blocks-hub", "crashes"} and one.form != "base class"


def _current(original: tuple[str, str]) -> Any:
    # gevent removes select.epoll: there is nothing to bind to.
    home, attribute = original
    return (namespace_of(sys.modules.get(home)) or {}).get(attribute)


def _fresh(hold: Hold) -> Any:
    """Return a cooperative object in the place of a free native one; None when it must stay."""
    kind, owner = kind_of(hold.thing), owner_of(hold)
    made_by = hold.module if owner is None else str(CLASS_DICT(type(owner)).get("__module__"))
    shared = any(type(one) is BuiltinMethodType for one in gc.get_referrers(hold.thing))
    # A Condition, a queue or a logging handler makes its waits with locks of the moment.
    if kind is None or shared or is_standard(made_by):
        return None
    # Locks of packages, too: some are held across a switch. Their clients and selectors are their own affair.
    if is_library(made_by) and kind.id != "GK111" and not keeps_requests_apart(owner):
        return None
    maker = _MAKERS.get(kind.name)
    return maker(hold.thing) if maker is not None else None


def _new_lock(lock: Any) -> Any:
    return None if lock.locked() else sys.modules["threading"].Lock()


def _new_rlock(lock: Any) -> Any:
    if not lock.acquire(blocking=False):
        return None
    free = "count=1" in repr(lock)
    lock.release()
    return sys.modules["threading"].RLock() if free else None


def _new_local(old: Any) -> Any:
    if type(old) is not sys.modules["_thread"]._local and type(old).__module__ != "_thread":
        return None  # a subclass: its __init__ may want arguments
    fresh = sys.modules["threading"].local()
    fresh.__dict__.update(old.__dict__)
    return fresh


def _new_queue(queue: Any) -> Any:
    if type(queue).__module__ != "_queue" or not queue.empty():
        return None
    return sys.modules["queue"].SimpleQueue()


def _new_selector(selector: Any) -> Any:
    return None if selector.get_map() else sys.modules["selectors"].DefaultSelector()


_MAKERS: dict[str, Callable[[Any], Any]] = {
    "_thread.lock": _new_lock,
    "_thread.RLock": _new_rlock,
    "_thread._local": _new_local,
    "_queue.SimpleQueue": _new_queue,
    "selectors.EpollSelector": _new_selector,
}
