"""What a limiter answers with: a permit that knows what it cost, or a refusal that knows when.

Bookkeeping only; the waiting and the lock are the budget's.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from greenkit import facts
from greenkit.limits._calendar import charged
from greenkit.limits._feedback import Ending, answered, ending_of
from greenkit.limits._from_async import entered
from greenkit.responses import read

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Literal

    from greenkit.limits._door import Door
    from greenkit.limits._gcra import Amounts

__all__ = ["HELD", "LET_THROUGH", "NEW", "TAKEN", "TAKEN_SHADOW", "Permit", "Refusal", "named"]

# What a permit is going through. Plain numbers: they are compared on every call.
# A shadow lets through what it would have held back; that one owes nothing.
# TAKEN ones come from try_permit() and are entered once more, without waiting.
NEW, HELD, SETTLED, LET_THROUGH, ENDED, TAKEN, TAKEN_SETTLED, TAKEN_SHADOW = range(8)
_SHOWN = ("not entered", "held", "held", "held", "ended", "taken", "taken", "taken")
_SHADOWS = frozenset({LET_THROUGH, TAKEN_SHADOW})
_ENTERED = {TAKEN: HELD, TAKEN_SETTLED: SETTLED, TAKEN_SHADOW: LET_THROUGH}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Say no, falsily, to `try_permit()`.

    Attributes:
        limiter: Name of the limiter that refused.
        retry_after: Seconds after which the same cost would pass as things stand. Where only
            `concurrency` is in the way nobody can know, and this is 0.1.
        window: The limit that is used up, such as "requests 10000/day"; empty when it is not the rate.
    """

    limiter: str
    retry_after: float
    window: str = ""

    def __bool__(self) -> Literal[False]:
        return False


class Permit:
    """Let one call through, at a cost that can be corrected once it is known; made by a limiter.

    Entering waits in the queue; leaving gives back the concurrency slot. How the block ended decides
    about the cost:

    - normally, or with most errors: it stands as reserved or as settled;
    - with a 429 (`RateLimited`, or any error that carries that status): `requests` stands, the
      rest is refunded, and everybody pauses for what the server said;
    - before anything was sent (connection refused, unknown host): all of it is refunded.

    What `settle()` said always stands. A permit is for one call and one `with`.

    Attributes:
        waited: Seconds entering took.
    """

    # No __init__: the limiter sets these, at a third of the price, and this is made for every call.
    __slots__ = ("_costs", "_door", "_lane", "_probe", "_since", "_state", "_timeout", "waited")

    _costs: Amounts
    _door: Door
    _lane: int
    _probe: Any  # number of the pause after which it goes first, and the others wait for its answer; else 0
    _since: BaseException | None  # what was being handled on entering: older than the call
    _state: int
    _timeout: float | None
    waited: float

    def __repr__(self) -> str:
        costs = ", ".join(f"{name}={cost:g}" for name, cost in self.costs.items())
        return f"<Permit of {self._door.name!r}, {costs}, {_SHOWN[self._state]}>"

    def __bool__(self) -> Literal[True]:
        return True

    @property
    def costs(self) -> dict[str, float]:
        """Return what this permit costs as of now, by dimension."""
        return self._door._terms.rules.by_dimension(self._costs)

    def __enter__(self) -> Permit:
        """Wait, in order, until the cost may go.

        Raises:
            LimitTimeout: It cannot go in time; said at once, not at the end of the time.
            RuntimeError: The permit was used before, or is held, also by another greenlet.

        Switches: may.
        """
        self._since = sys.exc_info()[1]
        if self._state:
            return self._enter_taken()
        door = self._door
        if door._take_nowait(self._costs):
            door._wait(self)
        else:
            self._state = HELD
        self._probe = door._budget.probe()
        if door._terms.by_calendar:
            self._costs = charged(self._costs, door.clock, waited=self.waited > 0)
        if facts.listeners:
            facts.emit(facts.PermitGranted(door.name, self.waited))
        return self

    async def __aenter__(self) -> Permit:
        """Enter from a coroutine: it waits in the same queue, and its loop goes on.

        Raises:
            LimitTimeout: It cannot go in time. RuntimeError: The permit was used before, or is held.

        Switches: never; the coroutine waits.
        """
        self._since = sys.exc_info()[1]
        if not self._state and not self._door._take_nowait(self._costs):  # it answers with what is in the way
            self._state = HELD
            self._probe = self._door._budget.probe()
            if self._door._terms.by_calendar:
                self._costs = charged(self._costs, self._door.clock, waited=False)
            if facts.listeners:
                facts.emit(facts.PermitGranted(self._door.name, self.waited))
            return self
        return await entered(self.__enter__, self._end)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """End the call, as leaving a `with` block does.

        Switches: never.
        """
        self._end(error)

    def _enter_taken(self) -> Permit:
        entered = _ENTERED.get(self._state)
        if entered is None:
            used = "was used before" if self._state == ENDED else "is held already"
            msg = (
                f"{self!r} {used}: a second call under it would go out unpaid, beyond `concurrency`. "
                "Every call takes its own permit()"
            )
            raise RuntimeError(msg)
        self._state = entered
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """End the call: give back its slot, and its cost as far as `error` says it did not count.

        Switches: never.
        """
        self._end(error)

    def _end(self, error: BaseException | None, *, alone: bool = False) -> None:
        state = self._state
        if state in (NEW, ENDED):
            return  # it holds nothing: a second slot given back would be another call's
        self._state = ENDED
        door = self._door
        if error is None:
            if self._probe:
                self._answered(passed=True)
            if not door._terms.counts_slots:
                self._since = None
                return
        # Finally: reading a foreign exception may raise; release the slot regardless.
        try:
            if error is not None:
                self._account(error, owed=state in (HELD, TAKEN), alone=alone)
            elif state not in _SHADOWS:
                door._budget.heard(error=False)
        finally:
            self._since = None
            if self._probe:
                self._answered(passed=False)  # not heard of: another goes first
            if state not in _SHADOWS:
                door._budget.give_back_slot()

    def _answered(self, *, passed: bool) -> None:
        number, self._probe = self._probe, 0
        self._door._budget.probe_answered(number, passed=passed)

    def settle(self, *, requests: float | None = None, tokens: float | None = None, **others: float) -> None:
        """Say what the call really cost: the rest is refunded, or the debt is charged.

        Dimensions not named keep what they cost. May be said again when more is known, and after
        the block. A debt makes those who come next wait; it is never refused.

        Args:
            requests: What it cost of this dimension.
            tokens: Likewise.
            others: Of further dimensions by name.

        Raises:
            RuntimeError: The permit was not entered yet, so there is nothing to settle.
            TypeError: A name is no dimension of this limiter, or a cost is no number.
            ValueError: A cost is negative, NaN, or so large that the debt would take ten years to pay.

        Switches: never.
        """
        state = self._state
        door = self._door
        if state == HELD:
            self._state = SETTLED
        elif state == TAKEN:
            self._state = TAKEN_SETTLED
        elif state == NEW:
            msg = f"{self!r}: settle() belongs inside the with block, once the cost is known"
            raise RuntimeError(msg)
        if self._probe and state != ENDED:  # there is an answer to count
            self._answered(passed=True)
        costs = named(requests, tokens, others)
        if door._terms.learns:
            door._teach(self._costs, costs)
        if state not in _SHADOWS:
            self._costs = door._budget.settle(self._costs, costs)

    def cancel(self) -> None:
        """Give everything back, as if the permit had never been taken: the call was not made.

        Switches: never.
        """
        state, self._state = self._state, ENDED
        self._probe, self._since = 0, None
        if state not in _SHADOWS and state not in {NEW, ENDED}:
            self._door._budget.take_back(self._costs)

    def _account(self, error: BaseException, *, owed: bool, alone: bool) -> None:
        since = getattr(self, "_since", None)
        answer = read(error, since=since)
        ending = ending_of(error, answer, since=since)
        self._door._failed(error, answer, ending, alone=alone)
        if self._probe and answered(error, answer, ending, since=since):
            self._answered(passed=True)
        if ending is not Ending.SPENT and owed:
            keep = "requests" if ending is Ending.REJECTED else ""
            refund = {name: 0.0 for name in self._door.dimensions if name != keep}
            self._costs = self._door._budget.settle(self._costs, refund)


def named(requests: float | None, tokens: float | None, others: dict[str, float]) -> dict[str, float]:
    """Return costs by name, of arguments that may not have been given; `others` with the rest put in.

    Switches: never.
    """
    if requests is not None:
        others["requests"] = requests
    if tokens is not None:
        others["tokens"] = tokens
    return others
