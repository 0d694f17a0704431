"""Which greenlets live, what each runs, where it was spawned and where it waits; for tests and reports."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gevent
from greenlet import gettrace, greenlet, settrace

from greenkit.watchdog._frames import greenlets_of, is_of, oldest, take_suspended
from greenkit.watchdog._look import Spot, label, spawned

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["LivingGreenlet", "NewGreenlets", "living_greenlets", "oldest_waiting", "whereabouts"]


@dataclass(frozen=True, slots=True)
class LivingGreenlet:
    """A greenlet that has begun and not ended.

    Attributes:
        greenlet: The greenlet itself.
        runs: What it runs.
        spawned: `file:line function` of the user's line that spawned it, "" when unknown.
        waits: `file:line function` of the user's line it waits in, else its innermost; "" if none.
    """

    greenlet: Any
    runs: str
    spawned: str
    waits: str

    def __str__(self) -> str:
        parts = [self.runs]
        parts += [f"spawned at {self.spawned}"] if self.spawned else []
        parts += [f"waits in {self.waits}"] if self.waits else []
        return ", ".join(parts)


def living_greenlets() -> list[LivingGreenlet]:
    """Return the greenlets of this thread's hub, without the hub and the main greenlet.

    Walks over every object of the process: some milliseconds.

    Switches: never.
    """
    return [_described(found) for found in greenlets_of(gevent.get_hub())]


class NewGreenlets:
    """Name the greenlets of this thread that began since `mark()`, without a walk over all objects.

    Traces every switch (`greenlet.settrace`): a greenlet has begun once it was switched to. The first mark
    walks over all objects to know the old greenlets, and so does each mark after the tracer was replaced.
    """

    def __init__(self) -> None:
        self._known: dict[int, weakref.ref[Any]] = {}
        self._fresh: list[weakref.ref[Any]] = []
        self._hook: Any = None
        self._before: Any = None

    def mark(self) -> None:
        """Count every greenlet that has begun by now as old.

        Switches: never.
        """
        if not self._traces():
            self._hook = self._switched  # keep one object: every access to a bound method makes a new one
            self._before = settrace(self._hook)
            self._known = {id(found): weakref.ref(found) for found in greenlets_of(gevent.get_hub())}
        self._fresh.clear()

    def living(self) -> list[LivingGreenlet]:
        """Return those that began since the mark and have not ended.

        Switches: never.
        """
        hub = gevent.get_hub()
        if not self._traces():
            begun = [found for found in greenlets_of(hub) if not self._knows(found)]
        else:
            begun = [found for found in (reference() for reference in self._fresh) if is_of(found, hub)]
        return [_described(found) for found in begun]

    def close(self) -> None:
        """Stop tracing.

        Switches: never.
        """
        if self._traces():
            settrace(self._before)
        self._hook = None

    def _traces(self) -> bool:
        return self._hook is not None and gettrace() is self._hook

    def _knows(self, found: Any) -> bool:
        reference = self._known.get(id(found))
        return reference is not None and reference() is found

    def _switched(self, event: str, pair: tuple[Any, Any]) -> None:
        if not self._knows(pair[1]):
            self._known[id(pair[1])] = reference = weakref.ref(pair[1])
            self._fresh.append(reference)
        if self._before is not None:
            self._before(event, pair)


def _described(found: Any) -> LivingGreenlet:
    return LivingGreenlet(found, label(found), str(spawned(found) or ""), whereabouts(found))


def oldest_waiting(hub: Any, count: int) -> list[LivingGreenlet]:
    """Return the main greenlet of `hub` and the `count` oldest others, as far as they wait.

    Any thread may call it.

    Switches: never.
    """
    main = greenlet.parent.__get__(hub)
    found = []
    for candidate in (main, *oldest(hub, count)):
        spots = [Spot(code, line or 0) for _, (code, line, _) in take_suspended(candidate)]
        place = next((spot for spot in spots if spot.users), spots[0] if spots else None)
        if place is not None:
            runs = "the main greenlet" if candidate is main else label(candidate)
            found.append(LivingGreenlet(candidate, runs, "", str(place)))
    return found


def whereabouts(suspended: Any) -> str:
    """Return `file:line function` of the user's line it waits in, else of its innermost; "" without a frame.

    Switches: never.
    """
    return str(_waits(greenlet.gr_frame.__get__(suspended)) or "")


def _waits(frame: FrameType | None) -> Spot | None:
    innermost = Spot(frame.f_code, frame.f_lineno or 0) if frame is not None else None
    while frame is not None:
        spot = Spot(frame.f_code, frame.f_lineno or 0)
        if spot.users:
            return spot
        frame = frame.f_back
    return innermost
