"""Bind again, in place, what still holds an original, and replace free native objects.

Only what is safe, and in Celery's family and the user's own modules only. Never silent: every
change is returned, and so is every refusal, with its reason.

Learnt the hard way: a lock somebody keeps a bound `acquire` of belongs to a Condition and must stay;
a class's dict is written through `type.__setattr__`, or the old value is served from the type cache;
a held lock stays.
"""

from __future__ import annotations

import functools
import sys
from types import CellType, FunctionType

from greenkit.boot._graph import Hold, namespace_of
from greenkit.boot._natives import kind_of, owner_of
from greenkit.boot._scan import StaleReference, came_late, survey
from greenkit.boot._shown import is_library
from greenkit.boot._steps import CLASS_BASES, CLASS_DICT, attribute_holding, is_class

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    Survey = tuple[Iterable[StaleReference], Iterable[Hold]]

__all__ = ["CELERY_FAMILY", "repair"]

CELERY_FAMILY = frozenset({"amqp", "billiard", "celery", "kombu", "redis", "vine"})
"""Packages whose globals were tried one by one: binding them again does what an early patch does."""


def repair(*, only: frozenset[str] | None = None, seen: Survey | None = None) -> tuple[str, ...]:
    """Bind stale names to what the patch installed; return a line for each change.

    Run it right after the patch: what is made from a stale name later is native again. Objects that
    cannot follow (sockets, TLS contexts, held locks, base classes of another layout) are left and stay
    findings of `evidence()`.

    Args:
        only: Top-level packages to touch; None for Celery's family and the user's own modules.
        seen: A survey that was made already; None looks at the process.

    Switches: never.
    """
    _let_kombu_look_again()
    references, natives = survey() if seen is None else seen
    done = []
    for one in references:
        if one.hold is None or one.deliberate or not _may_touch(one.module, only):
            continue
        current = _current(one.original)
        if current is not None and _bind(one.hold, current):
            done.append(f"{one.holder} -> {'.'.join(one.original)}")
    kept = {id(hold.thing) for hold in natives if hold.form == "bound method"}
    replaced: dict[int, Any] = {}
    for hold in natives:
        if id(hold.thing) not in kept and not came_late(hold.module) and _may_touch(hold.module, only):
            fresh = replaced.get(id(hold.thing)) or _fresh(hold)
            if fresh is not None and _bind(hold, fresh):
                replaced[id(hold.thing)] = fresh
                done.append(f"{hold.module}.{hold.path} -> a new {type(fresh).__name__}")
    return tuple(done)


def _let_kombu_look_again() -> None:
    # kombu 5.7 `utils/compat.py` keeps its answer to "default or gevent?" and picks its poller by it.
    compat = sys.modules.get("kombu.utils.compat")
    if compat is not None and getattr(compat, "_environment", None) == "default":
        compat.__dict__["_environment"] = None


def _may_touch(module: str, only: frozenset[str] | None) -> bool:
    root = module.partition(".")[0]
    if only is not None:
        return root in only
    if root in CELERY_FAMILY:
        return True
    # Late: it belongs to the part of the room that reads files.

    return not is_library(module)


def _current(original: tuple[str, str]) -> Any:
    # gevent removes select.epoll: there is nothing to bind to.
    home, attribute = original
    return (namespace_of(sys.modules.get(home)) or {}).get(attribute)


def _bind(hold: Hold, fresh: Any) -> bool:
    """Exchange what `hold` holds for `fresh`; False when this form of holding cannot be changed."""
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


def _fresh(hold: Hold) -> Any:
    """Return a cooperative object in the place of a free native one; None when it must stay."""
    kind = kind_of(hold.thing)
    made_by = (
        CLASS_DICT(type(owner_of(hold))).get("__module__") if owner_of(hold) is not None else hold.module
    )
    # Late: see _may_touch.

    if kind is None or is_library(str(made_by)):
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
