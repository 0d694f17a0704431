"""Mend a patched process in place: bind stale names again, replace free native objects, finish the patch.

Only what is safe. Never silent: every change is returned and kept in the record; what could not be
mended is still a finding.

Learnt the hard way: a lock somebody keeps a bound `acquire` of belongs to a Condition and must stay;
a class's dict is written through `type.__setattr__`, or the old value is served from the type cache;
a held lock stays.
"""

from __future__ import annotations

import functools
import gc
import sys
from types import BuiltinMethodType, CellType, FunctionType

from greenkit.boot._drivers import serve_drivers
from greenkit.boot._events import GUARD
from greenkit.boot._graph import CLASS_BASES, CLASS_DICT, attribute_holding, is_class, namespace_of
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

__all__ = ["CELERY_FAMILY", "bind", "repair"]


def bind(hold: Hold, fresh: Any) -> bool:
    """Exchange what `hold` holds for `fresh`; False when this form of holding cannot be changed.

    Switches: never.
    """
    binder = _BINDERS.get(hold.form.partition(" (")[0])
    return binder is not None and binder(hold.nodes, hold.thing, fresh)


def _in_namespace(nodes: tuple[Any, ...], stale: Any, fresh: Any) -> bool:
    namespace = nodes[-2]
    for key in [key for key, value in dict.items(namespace) if value is stale]:
        dict.__setitem__(namespace, key, fresh)
    return True


def _in_list(nodes: tuple[Any, ...], stale: Any, fresh: Any) -> bool:
    for at in [at for at, value in enumerate(nodes[-2]) if value is stale]:
        nodes[-2][at] = fresh
    return True


def _in_class(nodes: tuple[Any, ...], stale: Any, fresh: Any) -> bool:
    owner = next(one for one in reversed(nodes) if is_class(one) and one is not stale)
    for name, value in list(CLASS_DICT(owner).items()):
        if value is stale:
            type.__setattr__(owner, name, fresh)
        elif type(value) in {staticmethod, classmethod} and value.__func__ is stale:
            type.__setattr__(owner, name, type(value)(fresh))
    return True


def _in_bases(nodes: tuple[Any, ...], stale: Any, fresh: Any) -> bool:
    owner = nodes[-2]
    try:
        owner.__bases__ = tuple(fresh if base is stale else base for base in CLASS_BASES(owner))
    except TypeError:  # its layout differs: the instances could not follow
        return False
    return True


def _in_defaults(nodes: tuple[Any, ...], stale: Any, fresh: Any) -> bool:
    function = next((one for one in reversed(nodes) if type(one) is FunctionType and one is not stale), None)
    if function is None:
        return False
    if function.__defaults__:
        function.__defaults__ = tuple(fresh if value is stale else value for value in function.__defaults__)
    keywords = function.__kwdefaults__ or {}
    for key in [key for key, value in keywords.items() if value is stale]:
        keywords[key] = fresh
    return True


def _in_cell(nodes: tuple[Any, ...], stale: Any, fresh: Any) -> bool:
    cell = nodes[-2]
    if type(cell) is not CellType:
        return False
    cell.cell_contents = fresh
    return True


def _in_partial(nodes: tuple[Any, ...], stale: Any, fresh: Any) -> bool:
    partial: Any = next((one for one in reversed(nodes) if type(one) is functools.partial), None)
    if partial is None:
        return False
    arguments = tuple(fresh if value is stale else value for value in partial.args)
    keywords = {key: fresh if value is stale else value for key, value in partial.keywords.items()}
    function = fresh if partial.func is stale else partial.func
    partial.__setstate__((function, arguments, keywords, partial.__dict__ or None))
    return True


def _in_instance(nodes: tuple[Any, ...], stale: Any, fresh: Any) -> bool:
    if type(nodes[-2]) is dict:
        return _in_namespace(nodes, stale, fresh)
    owner = nodes[-2]
    name = attribute_holding(owner, stale)
    if name is None:
        return False
    object.__setattr__(owner, name, fresh)
    return attribute_holding(owner, stale) is None


def _in_field(nodes: tuple[Any, ...], stale: Any, fresh: Any) -> bool:
    # The generated __init__ holds it too, in a cell of its own.
    owner = next((one for one in nodes if is_class(one) and one is not stale), None)
    init = CLASS_DICT(owner).get("__init__") if owner is not None else None
    for cell in (init.__closure__ or ()) if type(init) is FunctionType else ():
        if cell.cell_contents is stale:
            cell.cell_contents = fresh
    return _in_instance(nodes, stale, fresh)


_BINDERS: dict[str, Callable[[tuple[Any, ...], Any, Any], bool]] = {
    "module global": _in_namespace,
    "dict value": _in_namespace,
    "function attribute": _in_namespace,
    "list item": _in_list,
    "deque item": _in_list,
    "class attribute": _in_class,
    "base class": _in_bases,
    "function default": _in_defaults,
    "keyword default": _in_defaults,
    "closure cell": _in_cell,
    "partial": _in_partial,
    "instance attribute": _in_instance,
    "dataclass default_factory": _in_field,
}


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
