"""Who still holds an original, in whatever form: the stale references of a patched process.

Evaluates nothing and changes nothing; `_graph` says how. What an original does to its holder is
data in `_plan`.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

from greenkit._heap import instances
from greenkit.boot._graph import CLASS_DICT, Hold, holds, is_class, namespace_of
from greenkit.boot._plan import EFFECTS, HARMLESS, Effect
from greenkit.boot._record import RECORD
from greenkit.boot._shown import file_of
from greenkit.findings import Severity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

__all__ = [
    "NATIVE_KINDS",
    "SKIP",
    "Kind",
    "StaleReference",
    "came_late",
    "is_standard",
    "keeps_requests_apart",
    "kind_of",
    "native_objects",
    "owner_of",
    "stale_references",
    "survey",
]


class Kind(NamedTuple):
    """Describe one kind of native object.

    Attributes:
        home: (module, attribute) of its class in gevent's record of originals.
        id: Id of the finding.
        rule: Rule of the finding.
        name: How the class is called in findings.
        effect: What it does.
        tails: The names it is made by in source.
    """

    home: tuple[str, str]
    id: str
    rule: str
    name: str
    effect: Effect
    tails: tuple[str, ...]


_DEADLOCKS = Effect(
    Severity.WARNING, "deadlocks", "stops the process for ever once a greenlet switches while it holds it"
)
_SHARED = Effect(Severity.WARNING, "no-exclusion", "lets every greenlet of the thread in at once")

NATIVE_KINDS: tuple[Kind, ...] = (
    Kind(
        ("_thread", "LockType"), "GK111", "native-lock", "_thread.lock", _DEADLOCKS, ("Lock", "allocate_lock")
    ),
    Kind(("_thread", "RLock"), "GK111", "native-rlock", "_thread.RLock", _SHARED, ("RLock",)),
    Kind(
        ("_thread", "_local"),
        "GK112",
        "native-local",
        "_thread._local",
        EFFECTS["_thread", "_local"],
        ("local",),
    ),
    Kind(
        ("queue", "SimpleQueue"),
        "GK113",
        "native-instance",
        "_queue.SimpleQueue",
        EFFECTS["queue", "SimpleQueue"],
        ("SimpleQueue",),
    ),
    Kind(
        ("selectors", "DefaultSelector"),
        "GK113",
        "native-instance",
        "selectors.EpollSelector",
        EFFECTS["selectors", "DefaultSelector"],
        ("DefaultSelector", "EpollSelector"),
    ),
    Kind(
        ("socket", "socket"),
        "GK113",
        "native-instance",
        "socket.socket",
        EFFECTS["socket", "socket"],
        ("socket", "create_connection", "socketpair", "create_server"),
    ),
    Kind(
        ("ssl", "SSLContext"),
        "GK113",
        "native-instance",
        "ssl.SSLContext",
        Effect(Severity.ERROR, "crashes", "raises TypeError or RecursionError on first use"),
        ("SSLContext", "create_default_context"),
    ),
)
"""What is looked for, in the order of the findings."""


def kind_of(thing: object) -> Kind | None:
    """Return the kind of a native object, None when it is none.

    Switches: never.
    """
    return next((kind for native, kind in _classes().items() if issubclass(type(thing), native)), None)


def native_objects() -> list[Any]:
    """Return the native objects alive that the collector knows.

    Switches: never.
    """
    family: set[type] = set()
    for native in _classes():
        family |= _family(native)
    return instances(family)


def _classes() -> dict[type, Kind]:
    monkey = namespace_of(sys.modules.get("gevent.monkey"))
    saved: Mapping[str, Mapping[str, Any]] = monkey.get("saved", {}) if monkey is not None else {}
    found: dict[type, Kind] = {}
    for kind in NATIVE_KINDS:
        module, name = kind.home
        live = namespace_of(sys.modules.get(module)) or {}
        native = saved.get(module, live).get(name, live.get(name))
        if issubclass(type(native), type):
            found[native] = kind
    return found


def _family(native: type) -> set[type]:
    family = [native]
    for one in family:  # grows while it is walked
        below: list[type] = type.__subclasses__(one)
        family += [sub for sub in below if not str(CLASS_DICT(sub).get("__module__")).startswith("gevent")]
    return set(family)


def owner_of(hold: Hold) -> Any:
    """Return the instance that owns the held thing; None when a module, class or function does.

    Switches: never.
    """
    for node in reversed(hold.nodes[1:-1]):
        module = CLASS_DICT(type(node)).get("__module__")
        if type(module) is str and module not in {"builtins", "collections", "functools"}:
            return None if is_class(node) else node
    return None


def keeps_requests_apart(owner: object) -> bool:
    """Tell whether a library's object keeps what requests must not share: Django's connections, by asgiref.

    Switches: never.
    """
    # Of asgiref's own objects only those that must not be shared between threads hold a native local.
    home: object = CLASS_DICT(type(owner)).get("__module__")
    return home == "asgiref.local"


SKIP = frozenset({"gevent", "greenlet", "greenkit"})
"""Packages that hold originals because that is their work."""


class StaleReference(NamedTuple):
    """Point at one place that holds what the patch has replaced.

    Attributes:
        module: The module the holder lives in.
        attribute: Path of the holder inside it: `Wire._wait`, `HANDLERS[wait]`.
        original: (module, attribute) of what it holds.
        form: "module global", "class attribute", "function default", "closure cell", "base class", …
        deliberate: The holder was imported after the patch, so somebody asked for the original.
        hold: The route to it.
    """

    module: str
    attribute: str
    original: tuple[str, str]
    form: str
    deliberate: bool = False
    hold: Hold | None = None

    @property
    def holder(self) -> str:
        """Return `module.attribute`."""
        return f"{self.module}.{self.attribute}"


def stale_references() -> tuple[StaleReference, ...]:
    """Return every place that holds a harmful original; () in a process that is not patched.

    Changes nothing and evaluates nothing. Takes some 50 ms in a process of 500 modules. The
    standard library's own holders are left out: they are the same in every well-ordered process, and work.

    Switches: never.
    """
    return survey()[0]


def survey() -> tuple[tuple[StaleReference, ...], tuple[Hold, ...]]:
    """Return the stale references, and who holds native objects from before the patch.

    One walk through the process for both: the walk is what costs.

    Switches: never.
    """
    originals = _originals()
    if not originals:
        return (), ()
    known = {id(thing): key for key, thing in reversed(originals.items())}
    natives = {id(one): one for one in _early_natives() if id(one) not in known}
    stale, early = [], []
    for hold in holds([*originals.values(), *natives.values()], skip=SKIP):
        if is_standard(hold.module) or f"{hold.module}.{hold.path}" in HARMLESS or _is_generated(hold):
            continue
        if id(hold.thing) in natives:
            early.append(hold)
        else:
            key, late = known[id(hold.thing)], came_late(hold.module)
            stale.append(StaleReference(hold.module, hold.path, key, hold.form, late, hold))
    return tuple(_without_heirs(stale)), tuple(early)


def _early_natives() -> list[Any]:
    if RECORD.natives:
        return [one for one in (reference() for reference in RECORD.natives) if one is not None]
    # Nobody looked before the patch; the owner's age must do.
    return [] if RECORD.modules else native_objects()


def came_late(module: str) -> bool:
    """Tell whether a module was imported after the patch.

    Switches: never.
    """
    if RECORD.modules:
        return module not in RECORD.modules
    # Nobody told us of the patch (greenkit was not installed then). gevent's last step loads this module.
    order = list(sys.modules)
    if "gevent.signal" not in order or module not in order:
        return False
    return module != "__main__" and order.index(module) > order.index("gevent.signal")


def is_standard(module: str) -> bool:
    """Tell whether a module belongs to the standard library.

    Switches: never.
    """
    root = module.partition(".")[0]
    return root in sys.stdlib_module_names and root != "__main__"


def _originals() -> dict[tuple[str, str], Any]:
    monkey = namespace_of(sys.modules.get("gevent.monkey"))
    saved: Mapping[str, Mapping[str, object]] = monkey.get("saved", {}) if monkey is not None else {}
    return {
        (module, attribute): saved[module][attribute]
        for module, attribute in EFFECTS
        if attribute in saved.get(module, ())
    }


def _is_generated(hold: Hold) -> bool:
    # A dataclass's `__init__` holds what its field holds; the field is the one people wrote.
    return hold.form == "closure cell" and "_dflt_" in hold.path.rpartition(" <closure ")[2]


def _without_heirs(found: list[StaleReference]) -> list[StaleReference]:
    """Call a late holder stale when it took the name from an early one: it asked for nothing."""
    early = {(one.original, one.hold.module) for one in found if not one.deliberate and one.hold}
    return [
        one
        if not one.deliberate or not _is_heir(one, early)
        else StaleReference(one.module, one.attribute, one.original, one.form, hold=one.hold)
        for one in found
    ]


def _is_heir(one: StaleReference, early: set[tuple[tuple[str, str], str]]) -> bool:
    if one.form != "module global" or not any(original == one.original for original, _ in early):
        return False
    # Late: reads the holder's source, and only when an early holder has the same original.
    from greenkit.boot._source import imports_of

    package = one.module.rpartition(".")[0]
    wanted = {module for original, module in early if original == one.original}
    return any(name in wanted for _, name in imports_of(file_of(one.module), package=package))
