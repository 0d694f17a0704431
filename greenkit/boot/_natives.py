"""Native objects from before the patch: locks, locals, queues, selectors, sockets, TLS contexts.

An object made before keeps its native waiting, whatever its class's name means now. Which of them
matter is decided by their owner: a `Condition`, a `queue.Queue` or a logging handler makes its waits
with locks of the moment and keeps working; a lock of the user's own deadlocks at the first switch.
"""

from __future__ import annotations

import gc
import sys
from typing import NamedTuple

from greenkit.boot._graph import CLASS_DICT, Hold, is_class, namespace_of
from greenkit.boot._severity import EFFECTS, Effect
from greenkit.findings import Severity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

__all__ = ["NATIVE_KINDS", "Kind", "keeps_requests_apart", "kind_of", "native_objects", "owner_of"]


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
    return [one for one in gc.get_objects() if type(one) in family]


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
