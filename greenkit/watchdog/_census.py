"""Which greenlets live, what each runs, where it was spawned and where it waits; for tests and reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gevent
from greenlet import greenlet

from greenkit.watchdog._frames import greenlets_of
from greenkit.watchdog._look import Spot, label, spawned

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["LivingGreenlet", "living_greenlets", "whereabouts"]


@dataclass(frozen=True, slots=True)
class LivingGreenlet:
    """A greenlet that has begun and not ended.

    Attributes:
        greenlet: The greenlet itself.
        runs: What it runs.
        spawned: `file:line function` of the user's line that spawned it, "" when unknown.
        waits: `file:line function` of the user's line it waits in, or of anybody's; "" when it has none.
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
    """Return the greenlets of this thread's hub, the hub and the main greenlet aside.

    Looks at every object of the process: some milliseconds.

    Switches: never.
    """
    hub = gevent.get_hub()
    return [
        LivingGreenlet(one, label(one), str(spawned(one) or ""), whereabouts(one))
        for one in greenlets_of(hub)
    ]


def whereabouts(one: Any) -> str:
    """Return `file:line function` of the user's line `one` waits in, or of anybody's; "" without one.

    Switches: never.
    """
    return str(_waits(greenlet.gr_frame.__get__(one)) or "")


def _waits(frame: FrameType | None) -> Spot | None:
    innermost = Spot(frame.f_code, frame.f_lineno or 0) if frame is not None else None
    while frame is not None:
        one = Spot(frame.f_code, frame.f_lineno or 0)
        if one.users:
            return one
        frame = frame.f_back
    return innermost
