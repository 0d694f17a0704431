"""What a shared budget does while its backend answers, and in each way it can go on without: one object each.

They change the state of the budget they are of; they keep none of their own.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from greenkit.limits._local import LocalState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from greenkit.limits._gcra import Amounts

__all__ = ["AWAY", "PROBE", "Alone", "Closed", "Online", "Open"]

# How often a backend that is away is asked whether it is back.
PROBE = 1.0
# What the store said is good for so long; after that it is asked before anybody is told "too late".
_FRESH = 1.0


class Online:
    """Give out what the store has booked, and tell it everything.

    Args:
        of: The `SharedState` it is of.

    Attributes:
        name: As `statistics().backend` shows it.
        online: The backend answers.
    """

    __slots__ = ("_of",)
    name = "shared"
    online = True

    def __init__(self, of: Any) -> None:
        self._of = of

    def size(self, whole: int) -> int:
        """Return how many of `whole` slots may be out here."""
        return whole

    def full(self) -> bool:
        """Tell whether every slot is out."""
        return bool(self._of.lacks_slots)

    def quiet(self, now: float) -> bool:
        """Tell whether the store knows all there is to know."""
        # Where slots are counted it has to hear that none is held.
        return not (self._of.reported and self._of.slots is not None)

    def admit(self, costs: Amounts, now: float, credit: float) -> float:
        """Take `costs`, or return the seconds until they may go."""
        of = self._of
        if now < of.paused_until:
            return math.inf
        of.outbox.charge([-units for units in of.reserved.mature(now)], now)
        if not of.reserved.take(costs):
            return float(max(of.reserved.first - now, 1e-9))
        of.has_probe = False
        of.grant()
        return 0.0

    def take_back(self, costs: Amounts, now: float) -> None:
        """Undo `admit()`."""
        self._of.put_back(costs)
        self._of.give_back_grant()

    def due(self, costs: Amounts) -> float:
        """Return when the head may go, as far as is known."""
        return float(self._of.reserved.first)

    def eta(self, costs: Amounts, ahead: Amounts, now: float) -> float:
        """Return the seconds until `costs` may go."""
        of = self._of
        if now - of.last > _FRESH:
            return float(max(0.0, of.paused_until - now))
        return LocalState.eta(of, costs, of.reserved.behind(ahead), now)

    def wait(self, costs: Amounts, now: float) -> float:
        """Return the seconds the head still has to wait at the least."""
        of = self._of
        return 0.0 if of.reserved.permits else float(max(0.0, of.paused_until - now, of.opens_at - now))

    def charge(self, units: Sequence[float], now: float) -> None:
        """Tell the store of `units` that were settled."""
        self._of.outbox.charge(units, now)

    def slow_down(self, now: float) -> None:
        """Have everybody use less of the rate."""
        self._of.outbox.cut = True
        self._of.outbox.at_once()

    def probe_answered(self, number: int, *, passed: bool) -> bool:
        """Say how the first call after a pause ended; its process alone knows."""
        self._of.outbox.probe, self._of.outbox.passed = number, passed
        self._of.outbox.at_once()
        return True


class Alone(Online):
    """Keep to this process's share of the rates and slots, as a budget of its own does."""

    __slots__ = ()
    name = "local"
    online = False

    def size(self, whole: int) -> int:
        """Return how many of `whole` slots may be out here."""
        return max(1, whole // int(self._of.processes))

    def full(self) -> bool:
        """Tell whether every slot is out."""
        size = self._of.size
        return size is not None and self._of.held >= size

    def quiet(self, now: float) -> bool:
        """Tell whether nothing is to be remembered."""
        return bool(self._of.rules.idle(self._of.tats, now) and now >= self._of.paused_until)

    def admit(self, costs: Amounts, now: float, credit: float) -> float:
        """Take `costs`, or return the seconds until they may go."""
        return LocalState.admit(self._of, costs, now, credit=credit)

    def take_back(self, costs: Amounts, now: float) -> None:
        """Undo `admit()`."""
        LocalState.take_back(self._of, costs, now)

    def due(self, costs: Amounts) -> float:
        """Return when the head may go, as far as is known."""
        return LocalState.due(self._of, costs)

    def eta(self, costs: Amounts, ahead: Amounts, now: float) -> float:
        """Return the seconds until `costs` may go."""
        return LocalState.eta(self._of, costs, ahead, now)

    def wait(self, costs: Amounts, now: float) -> float:
        """Return the seconds the head still has to wait at the least."""
        return LocalState.wait(self._of, costs, now)

    def charge(self, units: Sequence[float], now: float) -> None:
        """Tell nobody."""

    def slow_down(self, now: float) -> None:
        """Use less of the rate here."""
        LocalState.slow_down(self._of, now)

    def probe_answered(self, number: int, *, passed: bool) -> bool:
        """Hear how the first call after a pause ended."""
        return bool(self._of.half_open.answered(number, passed=passed))


class Closed(Alone):
    """Let nothing through."""

    __slots__ = ()
    name = "closed"

    def size(self, whole: int) -> int:
        """Return all of `whole`."""
        return whole

    def admit(self, costs: Amounts, now: float, credit: float) -> float:
        """Refuse."""
        return math.inf

    def take_back(self, costs: Amounts, now: float) -> None:
        """Undo `admit()`."""
        self._of.give_back_grant()

    def due(self, costs: Amounts) -> float:
        """Return that nobody knows."""
        return math.inf

    def eta(self, costs: Amounts, ahead: Amounts, now: float) -> float:
        """Return when the backend is asked again."""
        return PROBE

    def wait(self, costs: Amounts, now: float) -> float:
        """Return the least."""
        return 0.0


class Open(Closed):
    """Let everything through, but for pauses."""

    __slots__ = ()
    name = "open"

    def admit(self, costs: Amounts, now: float, credit: float) -> float:
        """Take `costs`, or return the seconds until a pause ends."""
        if now < self._of.paused_until:
            return float(max(self._of.paused_until - now, 1e-9))
        self._of.grant()
        return 0.0

    def eta(self, costs: Amounts, ahead: Amounts, now: float) -> float:
        """Return the seconds until a pause ends."""
        return float(max(0.0, self._of.paused_until - now))


# By what `on_backend_error` says.
AWAY = {kind.name: kind for kind in (Alone, Open, Closed)}
