"""Events and live objects of the process, for metrics, logs and `celery inspect greenkit`.

Packages `emit()` events as frozen values and `register()` live objects; others `subscribe()` or take a
`snapshot()`. Without listeners an emit costs one truth test. Loads nothing gevent patches.
"""

from __future__ import annotations

import weakref
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = [
    "COLLECTOR",
    "ConnectionLeaked",
    "HubBlocked",
    "PermitGranted",
    "PermitRefused",
    "ServerSaidSlowDown",
    "emit",
    "listeners",
    "listening",
    "register",
    "snapshot",
    "subscribe",
]

COLLECTOR = "the garbage collector"
"""What `HubBlocked.call` names when full garbage collections took most of a block."""


@dataclass(frozen=True, slots=True)
class PermitGranted:
    """A limiter admitted a call after `waited` seconds."""

    limiter: str
    waited: float


@dataclass(frozen=True, slots=True)
class PermitRefused:
    """A limiter refused a call; the same cost would pass in `retry_after` seconds."""

    limiter: str
    retry_after: float


@dataclass(frozen=True, slots=True)
class ServerSaidSlowDown:
    """A server answered "too many requests"; the limiter pauses for `pause` seconds."""

    limiter: str
    pause: float


@dataclass(frozen=True, slots=True)
class ConnectionLeaked:
    """A greenlet ended while it held a connection of `pool`; the pool took it back."""

    pool: str
    borrowed_at: str


@dataclass(frozen=True, slots=True)
class HubBlocked:
    """The hub stood still for `seconds`.

    Attributes:
        seconds: How long, so far when `over` is false.
        where: `file:line function` of the innermost frame of the user's code, "" when unknown.
        stack: `file:line function`, innermost first.
        over: The block has ended.
        module: Module of the frame `where` names.
        function: Qualified name of its function.
        call: The blocking C function as `module.name`, `COLLECTOR`, or "" when it could not be told.
        greenlet: What the blocking greenlet runs, as its repr; "" when unknown.
        task: `name[id]` of the Celery task it runs, "" when it runs none.
        since: When it began, on the monotonic clock: the same in all facts about one block.
        computed: Seconds of it in which the thread computed.
        starved: Seconds of it in which the thread wanted a processor and other threads or processes had it.
        startup: One-time work it was doing: `an import`, `a compilation`, `its start`; "" for none.
    """

    seconds: float
    where: str
    stack: tuple[str, ...] = ()
    over: bool = True
    module: str = ""
    function: str = ""
    call: str = ""
    greenlet: str = ""
    task: str = ""
    since: float = 0.0
    computed: float = 0.0
    starved: float = 0.0
    startup: str = ""

    @property
    def computes(self) -> bool:
        """Tell whether the thread computed, rather than waited in a call."""
        # A thread that waits for a processor computes whenever it gets one.
        ready = not self.call and (self.computed + self.starved) * 2 > self.seconds
        return ready or self.computed * 2 > self.seconds - self.starved


# Public: hot paths read it directly, to save the call of `listening()`.
listeners: tuple[Callable[[object], None], ...] = ()
_live: dict[str, weakref.WeakSet[Any]] = {}


def subscribe(listener: Callable[[object], None], /) -> Callable[[], None]:
    """Have `listener` called with every fact; return the function that unsubscribes it.

    A listener runs where the event happened, often in the hub: it must not wait and must not raise.
    """
    global listeners  # noqa: PLW0603 - one list of listeners per process is the point
    listeners = (*listeners, listener)

    def unsubscribe() -> None:
        global listeners  # noqa: PLW0603
        listeners = tuple(known for known in listeners if known is not listener)

    return unsubscribe


def listening() -> bool:
    """Tell whether there are listeners, so that a hot path can skip making the fact."""
    return bool(listeners)


def emit(fact: object, /) -> None:
    """Call every listener with `fact`.

    Switches: never (a listener must not wait).
    """
    for listener in listeners:
        listener(fact)


def register(kind: str, thing: Any, /) -> None:
    """Make `thing` visible in `snapshot()` for as long as it lives.

    Args:
        kind: The key in `snapshot()`: "limiter", "pool", "connections", "watchdog".
        thing: Anything weakly referable with a `name` and a `statistics()` that returns a frozen
            dataclass and never switches.
    """
    _live.setdefault(kind, weakref.WeakSet()).add(thing)


def snapshot() -> dict[str, dict[str, dict[str, Any]]]:
    """Return {kind: {name: statistics}} of every registered object, ready for JSON.

    Switches: never.
    """
    by_kind: dict[str, dict[str, dict[str, Any]]] = {}
    for kind, things in _live.items():
        for thing in sorted(things, key=lambda live: str(live.name)):
            by_name = by_kind.setdefault(kind, {})
            name = thing.name if thing.name not in by_name else f"{thing.name}#{id(thing):x}"
            by_name[name] = asdict(thing.statistics())
    return by_kind
