"""Who holds a thing, as a route from a module down to it: the collector's graph, read backwards.

`gc.get_referrers` walks every container of the process in C, so a holder is found in whatever form
it holds: global, default, closure, dict, partial, dataclass field, attribute of an instance. Nothing
here reads an attribute of an object it does not know: `type(o)`, the collector's edges, and the
descriptors of C types only. Reading `o.anything` on a lazy proxy would import half of Celery, which
is the very fault this package exists to cure.

`describe()` puts a route into words: `Wire._wait`, "class attribute (staticmethod)". A key is quoted only
when it is a plain string or number, because any other could run code to show itself.
"""

from __future__ import annotations

import functools
import gc
import sys
from collections import deque
from types import BuiltinMethodType, CellType, FrameType, FunctionType, MethodType, ModuleType
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any

__all__ = [
    "CLASS_BASES",
    "CLASS_DICT",
    "CLASS_MRO",
    "Hold",
    "attribute_holding",
    "class_of",
    "describe",
    "holds",
    "is_class",
    "namespace_of",
]

CLASS_DICT: Any = type.__dict__["__dict__"].__get__
CLASS_BASES: Any = type.__dict__["__bases__"].__get__
CLASS_MRO: Any = type.__dict__["__mro__"].__get__
_qualname: Any = type.__dict__["__qualname__"].__get__

# What stands under these names describes an object and is never called through them.
_DESCRIBING = frozenset(
    {"__annotations__", "__wrapped__", "__orig_bases__", "__args__", "__mro__", "__base__"}
)

_Step = tuple[str, str, int]  # text, form, how many edges it covers


def is_class(thing: object) -> bool:
    """Tell whether `thing` is a class, without asking it.

    Switches: never.
    """
    return issubclass(type(thing), type)


def class_of(thing: Any) -> str:
    """Return the qualified name of a class or a function; of an instance, that of its class.

    Switches: never.
    """
    if is_class(thing):
        name: str = _qualname(thing)
    else:
        name = thing.__qualname__ if type(thing) is FunctionType else _qualname(type(thing))
    return name


def describe(nodes: Sequence[Any], roots: Mapping[int, str]) -> tuple[str, str] | None:
    """Return (path, form) of a route; None when one of its edges does not hold in earnest.

    Args:
        nodes: From a module's namespace, a class or a function down to the thing held.
        roots: id of a namespace → name of its module.

    Switches: never.
    """
    path = "" if id(nodes[0]) in roots else class_of(nodes[0])
    form, at = "", 0
    while at < len(nodes) - 1:
        step = _step(nodes, at, roots)
        if step is None:
            return None
        text, new, covered = step
        if new == "wrapped":  # the object inside a staticmethod
            form += f" ({type(nodes[at]).__name__})"
        elif new:
            form = new
        path += text
        at += covered
    return path.lstrip("."), form


def _step(nodes: Sequence[Any], at: int, roots: Mapping[int, str]) -> _Step | None:
    parent, child = nodes[at], nodes[at + 1]
    kind = type(parent)
    if id(parent) in roots:
        return _named(_key_of(parent, child), "module global")
    if is_class(parent):
        return _in_class(parent, nodes, at)
    if kind is FunctionType:
        return _in_function(parent, nodes, at)
    if kind is functools.partial:  # the function itself, or its arguments in a tuple or dict
        return "", "partial", min(2, len(nodes) - 1 - at) if child is not parent.func else 1
    if kind in _PLAIN:
        plain: _Step | None = _PLAIN[kind](parent, child)
        return plain
    if issubclass(kind, dict) and _is_namespace_of_nobody(nodes, at):
        return _in_dict(parent, child)
    return _in_instance(parent, nodes, at)


def _is_namespace_of_nobody(nodes: Sequence[Any], at: int) -> bool:
    # A dict subclass holds in its items or in its attributes; its items win.
    return any(value is nodes[at + 1] for value in dict.values(nodes[at]))


def _named(name: object, form: str, covered: int = 1) -> _Step | None:
    if type(name) is not str or name in _DESCRIBING:
        return None
    return f".{name}", form, covered


def _key_of(mapping: dict[Any, Any], value: object) -> object:
    return next((key for key, one in dict.items(mapping) if one is value), None)


def _in_class(owner: object, nodes: Sequence[Any], at: int) -> _Step | None:
    inside = nodes[at + 1]
    if at + 2 < len(nodes) and type(inside) is dict:
        name = next((key for key, one in CLASS_DICT(owner).items() if one is nodes[at + 2]), None)
        return _named(name, "class attribute", 2)
    if any(inside is base for base in CLASS_BASES(owner)):
        return "", "base class", 1
    return None  # its bases, its mro, its metaclass


def _in_function(function: FunctionType, nodes: Sequence[Any], at: int) -> _Step | None:
    inside = nodes[at + 1]
    held = nodes[at + 2] if at + 2 < len(nodes) else None
    if held is None:
        return None
    if inside is function.__closure__:
        cell = next(i for i, one in enumerate(function.__closure__ or ()) if one is held)
        name = function.__code__.co_freevars[cell]
        if name == "__class__":  # what super() needs
            return None
        return f" <closure {name}>", "closure cell", min(3, len(nodes) - 1 - at)
    if inside is function.__defaults__:
        name = _default_name(function, held)
        return f" <default {name}>", "function default", 2
    if function.__kwdefaults__ is not None and inside is function.__kwdefaults__:
        return f" <default {_key_of(function.__kwdefaults__, held)}>", "keyword default", 2
    if inside is function.__dict__:
        return _named(_key_of(inside, held), "function attribute", 2)
    return None  # globals, annotations


def _default_name(function: FunctionType, held: object) -> str:
    code, defaults = function.__code__, function.__defaults__ or ()
    first = code.co_argcount - len(defaults)
    return code.co_varnames[first + next(i for i, one in enumerate(defaults) if one is held)]


def _in_dict(mapping: dict[Any, Any], child: object) -> _Step | None:
    key = _key_of(mapping, child)
    if type(key) in {str, int}:
        return None if key in _DESCRIBING else (f"[{key}]", "dict value", 1)
    if key is None:  # it is a key, and a key is looked at, not called
        return None
    return f"[<{type(key).__name__}>]", "dict value", 1


def _in_sequence(items: Any, child: object) -> _Step | None:
    if type(items) is tuple and all(is_class(one) for one in items):
        return None  # what isinstance() is given
    index = next((i for i, one in enumerate(items) if one is child), None)
    return None if index is None else (f"[{index}]", f"{type(items).__name__} item", 1)


def _in_set(items: Any, child: object) -> _Step | None:
    return "[…]", f"{type(items).__name__} item", 1


def _in_method(method: Any, child: object) -> _Step | None:
    # Bound to a class (`local.__new__`) it is the class's own affair.
    return None if is_class(child) else ("", "bound method", 1)


def _in_wrapper(wrapper: Any, child: object) -> _Step | None:
    return ("", "wrapped", 1) if child is wrapper.__func__ else None


def _in_property(one: property, child: object) -> _Step | None:
    name = next((n for n in ("fget", "fset", "fdel") if getattr(one, n) is child), "")
    return f".{name}", "property", 1


_PLAIN: dict[type, Any] = {
    dict: _in_dict,
    list: _in_sequence,
    tuple: _in_sequence,
    deque: _in_sequence,
    set: _in_set,
    frozenset: _in_set,
    CellType: lambda _cell, _child: ("", "closure cell", 1),
    MethodType: _in_method,
    BuiltinMethodType: _in_method,
    staticmethod: _in_wrapper,
    classmethod: _in_wrapper,
    property: _in_property,
}


def _in_instance(owner: Any, nodes: Sequence[Any], at: int) -> _Step | None:
    child = nodes[at + 1]
    if child is type(owner) or type(owner).__name__.endswith("descriptor"):
        return None
    last = at + 2 >= len(nodes)
    if not last and type(child) is dict and (name := _key_of(child, nodes[at + 2])) is not None:
        step = _named(name, "instance attribute", 2)
    else:
        step = _named(attribute_holding(owner, child), "instance attribute")
    if step is None or type(owner).__name__ != "Field":
        return step
    # dataclasses.Field: its `type` describes, its factory is called.
    return (step[0], "dataclass default_factory", step[2]) if "factory" in step[0] else None


def attribute_holding(owner: object, child: object) -> str | None:
    """Return the attribute of `owner` that is `child`, read through C descriptors only.

    Switches: never.
    """
    return next((name for name, value in _attributes(owner) if value is child), None)


def _attributes(owner: object) -> Iterator[tuple[str, Any]]:
    for base in CLASS_MRO(type(owner)):
        for name, descriptor in CLASS_DICT(base).items():
            if type(descriptor).__name__ == "member_descriptor":
                try:
                    yield name, descriptor.__get__(owner)
                except (AttributeError, TypeError):
                    continue
            elif name == "__dict__" and type(descriptor).__name__ == "getset_descriptor":
                inside = descriptor.__get__(owner)
                if type(inside) is dict:
                    yield from [(key, one) for key, one in inside.items() if type(key) is str]


_DEPTH = 8
_WIDTH = 4000
# Their references say nothing about a holder: what runs now, what lists everything, what describes types.
_IGNORED = (FrameType, ModuleType)
# A generic alias or an annotation's helper names a class and never calls it; a Condition or a queue makes its
# waits with locks of the moment, so what it holds does no harm.
_SILENT = frozenset({
    "_abc", "gc", "inspect", "queue", "threading", "types", "typing", "typing_extensions",
})  # fmt: skip


class Hold(NamedTuple):
    """Point at one place that holds a thing.

    Attributes:
        module: The module the route begins in.
        path: Attribute path inside it: `Wire._wait`, `HANDLERS[wait]`, `send <closure pause>`.
        form: How the thing is held: "module global", "closure cell", "dict value".
        thing: What is held.
        nodes: The objects of the route, from the module's namespace, a class or a function down to
            the thing.
    """

    module: str
    path: str
    form: str
    thing: Any
    nodes: tuple[Any, ...]


def namespace_of(module: object) -> dict[str, Any] | None:
    """Return the namespace of a true module; None for what merely stands in `sys.modules`."""
    if not issubclass(type(module), ModuleType):
        return None
    found: dict[str, Any] = object.__getattribute__(module, "__dict__")
    return found


def holds(things: Iterable[object], *, skip: frozenset[str] = frozenset()) -> list[Hold]:
    """Return every place that holds one of `things`, by the shortest route from a module to it.

    Args:
        things: The very objects; compared by identity.
        skip: Top-level packages whose holders are left out.

    Switches: never.
    """
    wanted = {id(thing): thing for thing in things}
    search = _Search(skip)
    search.climb(wanted)
    return search.routes(wanted)


class _Search:
    """Climb from things to modules, remembering objects once and edges by id.

    Ids and not objects in the edges: a list of objects would itself show up as a referrer.
    """

    def __init__(self, skip: frozenset[str]) -> None:
        self.roots: dict[int, str] = {}
        self.skipped: set[int] = set()
        for name, module in list(sys.modules.items()):
            namespace = namespace_of(module)
            if namespace is not None and id(namespace) not in self.roots:
                self.roots[id(namespace)] = name
                if name.partition(".")[0] in skip:
                    self.skipped.add(id(namespace))
        self.skip = skip
        monkey = namespace_of(sys.modules.get("gevent.monkey")) or {}
        saved = monkey.get("saved", {})
        self.skipped.update(map(id, (saved, *saved.values())))
        self.objects: dict[int, Any] = {}
        self.up: dict[int, set[int]] = {}

    def climb(self, wanted: dict[int, Any]) -> None:
        level = dict(wanted)
        self.objects.update(wanted)
        own = {id(self.objects), id(wanted), id(self.__dict__)}
        for _ in range(_DEPTH):
            above: dict[int, Any] = {}
            things = tuple(level.values())
            own |= {id(level), id(above), id(things)}
            for parent in gc.get_referrers(*things):
                if id(parent) in own or id(parent) in self.skipped or type(parent) in _IGNORED:
                    continue
                children = [id(one) for one in gc.get_referents(parent) if id(one) in level]
                self._link(parent, children)
                if id(parent) not in self.objects:
                    self.objects[id(parent)] = parent
                    if self.root_of(parent) is None and _may_explain(parent):
                        above[id(parent)] = parent
            level = above
            if not level or len(level) > _WIDTH:
                return

    def _link(self, parent: object, children: list[int]) -> None:
        for child in children:
            self.up.setdefault(child, set()).add(id(parent))

    def root_of(self, node: Any) -> str | None:
        """Return the module a route may begin in at `node`; None when it must go further up."""
        name = self.roots.get(id(node))
        if name is not None:
            return name
        if _is_logger(node):
            return "logging"  # what its handlers hold may have no other way to a module
        if is_class(node):
            own = CLASS_DICT(node).get("__module__")
        elif type(node) is FunctionType:
            own = node.__module__
        else:
            return None
        local = "<" in class_of(node)
        return own if type(own) is str and own in sys.modules and not local else None

    def routes(self, wanted: dict[int, Any]) -> list[Hold]:
        best = self._best()
        found: dict[tuple[int, str, str], Hold] = {}
        for target, thing in wanted.items():
            for parent in self.up.get(target, ()):
                nodes = _behind_logger(self._route(parent, best))
                if not nodes:
                    continue
                module = self.root_of(nodes[0]) or _home(nodes[0])
                told = describe((*nodes, thing), self.roots)
                if module is None or told is None or module.partition(".")[0] in self.skip:
                    continue
                hold = Hold(module, *told, thing, (*nodes, thing))
                found.setdefault((target, module, hold.path), hold)
        return sorted(found.values(), key=lambda hold: (hold.module, hold.path))

    def _best(self) -> dict[int, int]:
        """Return how many edges each object is below its nearest root."""
        down: dict[int, list[int]] = {}
        for child, parents in self.up.items():
            for parent in parents:
                down.setdefault(parent, []).append(child)
        best = {at: 0 for at, node in self.objects.items() if self.root_of(node) is not None}
        queue = list(best)
        for at in queue:  # grows while it is walked: breadth first
            for child in down.get(at, ()):
                if child not in best:
                    best[child] = best[at] + 1
                    queue.append(child)
        return best

    def _route(self, at: int, best: dict[int, int]) -> list[Any]:
        if at not in best:
            return []
        nodes = [self.objects[at]]
        while best[at]:
            # Of two ways equally short, the one from the package that defines the object, then the one nearer
            # to the top; the name last, so that a finding does not change with the order of the heap.
            home = str(CLASS_DICT(type(nodes[-1])).get("__module__")).partition(".")[0]
            _, _, _, _, at = min(
                (best[above], name.partition(".")[0] != home, name.count("."), name, above)
                for above, name in ((up, self.roots.get(up, "")) for up in self.up[at] if up in best)
            )
            nodes.append(self.objects[at])
        return nodes[::-1]


def _is_logger(node: Any) -> bool:
    logging = namespace_of(sys.modules.get("logging"))
    return logging is not None and issubclass(type(node), logging.get("Logger", ()))


def _behind_logger(nodes: list[Any]) -> list[Any]:
    """Return a route that begins at a logger from the first object of a class of no standard module.

    The finding names that class. The locks of the standard library's handlers are replaced by the patch.
    """
    if not nodes or not _is_logger(nodes[0]):
        return nodes
    own = (at for at, node in enumerate(nodes) if _home(node).partition(".")[0] not in _STANDARD)
    first = next(own, len(nodes))
    return nodes[first:]


def _home(node: Any) -> str:
    """Return the module that defines the class of an object."""
    return str(CLASS_DICT(type(node)).get("__module__"))


_STANDARD = sys.stdlib_module_names - {"__main__"} | {"None"}


def _may_explain(node: Any) -> bool:
    kind = type(node)
    if kind is tuple:
        return not all(is_class(one) for one in node)  # bases, an mro, what isinstance() is given
    if kind is BuiltinMethodType:
        return not is_class(node.__self__)
    module = CLASS_DICT(kind).get("__module__")
    return not kind.__name__.endswith("descriptor") and not (type(module) is str and module in _SILENT)
