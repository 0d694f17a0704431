"""Who holds a thing, as a route from a module down to it: the collector's graph, read backwards.

`gc.get_referrers` walks every container of the process in C, so a holder is found in whatever form
it holds: global, default, closure, dict, partial, dataclass field, attribute of an instance. Nothing
here reads an attribute of an object it does not know: `type(o)`, the collector's edges, and the
descriptors of C types only. Reading `o.anything` on a lazy proxy would import half of Celery, which
is the very fault this room exists to cure.
"""

from __future__ import annotations

import gc
import sys
from types import BuiltinMethodType, FrameType, FunctionType, ModuleType
from typing import NamedTuple

from greenkit.boot._steps import CLASS_DICT, class_of, describe, is_class

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

__all__ = ["Hold", "holds", "namespace_of"]

_DEPTH = 8
_WIDTH = 4000
# Their references say nothing about a holder: what runs now, what lists everything, what describes types.
_IGNORED = (FrameType, ModuleType)
# A generic alias or an annotation's helper names a class and never calls it; a Condition, a queue or a
# logging handler makes its waits with locks of the moment, so what it holds does no harm.
_SILENT = frozenset({
    "_abc", "gc", "inspect", "logging", "queue", "threading", "types", "typing", "typing_extensions",
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
                nodes = self._route(parent, best)
                if not nodes:
                    continue
                module = self.root_of(nodes[0])
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


def _may_explain(node: Any) -> bool:
    kind = type(node)
    if kind is tuple:
        return not all(is_class(one) for one in node)  # bases, an mro, what isinstance() is given
    if kind is BuiltinMethodType:
        return not is_class(node.__self__)
    module = CLASS_DICT(kind).get("__module__")
    return not kind.__name__.endswith("descriptor") and not (type(module) is str and module in _SILENT)
