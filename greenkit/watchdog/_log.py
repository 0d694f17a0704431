"""Log blocks; repeated blocks of one place become one line with a count.

Used by the hub's side only; the caller runs it in its own greenlet, since a handler may wait.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from greenkit.watchdog._sentry import describe
from greenkit.watchdog._suspects import remedy

if TYPE_CHECKING:
    from greenkit.facts import HubBlocked

__all__ = ["BlockLog"]

_logger = logging.getLogger("greenkit.watchdog")
_PLACES = 100
_STARTUP = "imports and other work of the start"


@dataclass(slots=True)
class _Tally:
    """Count the blocks of one place that were not logged.

    Attributes:
        due: When they are logged, on the caller's clock.
    """

    due: float
    count: int = 0
    seconds: float = 0.0
    worst: float = 0.0


class BlockLog:
    """Log the first block of a place at once, those of the next `quiet` seconds as one line at their end.

    Args:
        quiet: Seconds; 0 logs every block.
    """

    __slots__ = ("_places", "_quiet", "due")

    def __init__(self, quiet: float) -> None:
        self._quiet = quiet
        self._places: dict[str, _Tally] = {}
        self.due = inf
        """When `flush()` has something to log."""

    def note(self, fact: HubBlocked, now: float) -> None:
        """Log `fact`, or count it."""
        once = bool(fact.startup) and fact.computes
        place = _STARTUP if once else fact.where
        tally = self._places.get(place)
        if tally is not None and now < tally.due:
            tally.count += 1
            tally.seconds += fact.seconds
            tally.worst = max(tally.worst, fact.seconds)
            self.due = min(self.due, tally.due)
            return
        if tally is None and len(self._places) >= _PLACES:
            self._drop(next(iter(self._places)))
        self._places[place] = _Tally(now + self._quiet)
        if once:
            _logger.info("the hub stood still for %.3f s %s", fact.seconds, describe(fact))
        else:
            self._tell(fact)

    def flush(self, now: float = inf) -> None:
        """Log the counts that are due; all of them when `now` is not given."""
        for place in [name for name, tally in self._places.items() if tally.due <= now]:
            self._drop(place)
        self.due = min((tally.due for tally in self._places.values() if tally.count), default=inf)

    def _drop(self, place: str) -> None:
        tally = self._places.pop(place)
        if tally.count:
            _logger.log(
                logging.INFO if place == _STARTUP else logging.WARNING,
                "the hub stood still %d more time(s) in %s within %g s: %.3f s together, %.3f s at worst",
                tally.count,
                place or "no greenlet's code",
                self._quiet,
                tally.seconds,
                tally.worst,
            )

    def _tell(self, fact: HubBlocked) -> None:
        if not fact.where and not fact.greenlet:
            # No greenlet was seen blocking: many ran one after another, or the machine is overloaded.
            _logger.warning("the hub was late by %.3f s, without one greenlet to blame", fact.seconds)
            return
        _logger.warning(
            "the hub stood still for %.3f s %s; nothing else ran meanwhile. %s",
            fact.seconds,
            describe(fact),
            remedy(fact.call),
        )
