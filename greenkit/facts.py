"""What happened and what there is, as frozen values without duties.

Rooms `emit()` facts and `register()` their live objects; metrics, logs, the watchdog's report and
`celery inspect greenkit` listen or look. Nothing here has an opinion, and with nobody listening
an emit costs one truth test. Loads nothing gevent patches.
"""

from __future__ import annotations

import weakref
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = [
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


@dataclass(frozen=True, slots=True)
class PermitGranted:
    """A limiter let a call through after `waited` seconds."""

    limiter: str
    waited: float


@dataclass(frozen=True, slots=True)
class PermitRefused:
    """A limiter said no; the same cost would pass in `retry_after` seconds."""

    limiter: str
    retry_after: float


@dataclass(frozen=True, slots=True)
class ServerSaidSlowDown:
    """A server answered "too many requests"; the limiter pauses for `pause` seconds."""

    limiter: str
    pause: float


@dataclass(frozen=True, slots=True)
class ConnectionLeaked:
    """A greenlet ended with a connection of `pool`; it was taken back."""

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
        call: The blocking C function as `module.name`, "" when it could not be told.
        greenlet: What the blocking greenlet runs, as its repr; "" when unknown.
        task: `name[id]` of the Celery task it runs, "" when it runs none.
        since: When it began, on the monotonic clock: the same for all that is told of one block.
        computed: Seconds of it in which the thread computed.
        starved: Seconds of it in which the thread wanted a processor and other threads or processes had it.
        startup: Work a program does once, and was at: `an import`, `a compilation`, `its start`; "" for none.
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
        return self.computed * 2 > self.seconds - self.starved


# Read as it stands where even the call of `listening()` would be felt.
listeners: tuple[Callable[[object], None], ...] = ()
_live: dict[str, weakref.WeakSet[Any]] = {}


def subscribe(listener: Callable[[object], None], /) -> Callable[[], None]:
    """Have `listener` called with every fact; return the function that ends it.

    A listener runs where the fact happened, often in the hub: it must not wait and must not
    raise.
    """
    global listeners  # noqa: PLW0603 - one list of listeners per process is the point
    listeners = (*listeners, listener)

    def unsubscribe() -> None:
        global listeners  # noqa: PLW0603
        listeners = tuple(one for one in listeners if one is not listener)

    return unsubscribe


def listening() -> bool:
    """Tell whether anybody listens, so that a busy room can skip making the fact."""
    return bool(listeners)


def emit(fact: object, /) -> None:
    """Hand `fact` to every listener.

    Switches: never (a listener that waits breaks its promise).
    """
    for listener in listeners:
        listener(fact)


def register(kind: str, thing: Any, /) -> None:
    """Make `thing` visible in `snapshot()` for as long as it lives.

    Args:
        kind: Which shelf: "limiter", "pool", "connections", "watchdog".
        thing: Anything weakly referable with a `name` and a `statistics()` that returns a frozen
            dataclass and never switches.
    """
    _live.setdefault(kind, weakref.WeakSet()).add(thing)


def snapshot() -> dict[str, dict[str, dict[str, Any]]]:
    """Return {kind: {name: statistics}} of every registered thing alive, ready for JSON.

    Switches: never.
    """
    shelves: dict[str, dict[str, dict[str, Any]]] = {}
    for kind, things in _live.items():
        for thing in sorted(things, key=lambda one: str(one.name)):
            shelf = shelves.setdefault(kind, {})
            name = thing.name if thing.name not in shelf else f"{thing.name}#{id(thing):x}"
            shelf[name] = asdict(thing.statistics())
    return shelves
