"""What a limiter answers with: a permit that knows what it cost, or a refusal that knows when.

Bookkeeping only; the waiting and the lock are the budget's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from greenkit import facts
from greenkit.limits._feedback import Ending, ending_of

if TYPE_CHECKING:
    from types import TracebackType

    from greenkit.limits._door import Door
    from greenkit.limits._rules import Amounts

__all__ = ["ENDED", "HELD", "LET_THROUGH", "NEW", "Permit", "Refusal", "named"]

# What a permit is going through. Plain numbers: they are compared on every call.
# A shadow lets through what it would have held back; that one owes nothing.
NEW, HELD, SETTLED, LET_THROUGH, ENDED = range(5)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Say no, falsily, to `try_permit()`.

    Attributes:
        limiter: Name of the limiter that refused.
        retry_after: Seconds after which the same cost would pass as things stand. Where only
            `concurrency` is in the way nobody can know, and this is 0.1.
    """

    limiter: str
    retry_after: float

    def __bool__(self) -> bool:
        return False


class Permit:
    """Let one call through, at a cost that can be corrected once it is known; made by a limiter.

    Entering waits in line; leaving gives back the concurrency slot. How the block ended decides
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
    __slots__ = ("_costs", "_door", "_lane", "_state", "_timeout", "waited")

    _costs: Amounts
    _door: Door
    _lane: int
    _state: int
    _timeout: float | None
    waited: float

    def __repr__(self) -> str:
        state = ("not entered", "held", "held", "held", "ended")[self._state]
        costs = ", ".join(f"{name}={cost:g}" for name, cost in self.costs.items())
        return f"<Permit of {self._door.name!r}, {costs}, {state}>"

    @property
    def costs(self) -> dict[str, float]:
        """Return what this permit costs as of now, by dimension."""
        return dict(zip(self._door.dimensions, self._costs, strict=True))

    def __enter__(self) -> Permit:
        """Wait, in order, until the cost may go.

        Raises:
            LimitTimeout: It cannot go in time; said at once, not at the end of the time.
            RuntimeError: The permit was used before.

        Switches: may.
        """
        if self._state:
            if self._state == ENDED:
                msg = f"{self!r} was used before; every call takes its own permit()"
                raise RuntimeError(msg)
            return self
        door = self._door
        if door._take_nowait(self._costs):
            door._wait(self)
        else:
            self._state = HELD
        if facts.listeners:
            facts.emit(facts.PermitGranted(door.name, self.waited))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """End the call: give back its slot, and its cost as far as `error` says it did not count.

        Switches: never.
        """
        state = self._state
        self._state = ENDED
        door = self._door
        if error is None and not door._terms.counts_slots:
            return
        # Finally: what the error says of itself is foreign code, and the slot is not its own.
        try:
            if error is not None:
                self._account(error, owed=state == HELD)
            elif state != LET_THROUGH:
                door._budget.heard(error=False)
        finally:
            if state != LET_THROUGH:
                door._budget.give_back_slot()

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
            TypeError: A name is no dimension of this limiter.
            ValueError: A cost is negative or not a number.

        Switches: never.
        """
        state = self._state
        door = self._door
        if state == HELD:
            self._state = SETTLED
        elif state == NEW:
            msg = f"{self!r}: settle() belongs inside the with block, once the cost is known"
            raise RuntimeError(msg)
        if tokens is not None and requests is None and not others and not door._terms.learns:
            if state != LET_THROUGH:
                self._costs = door._settle_tokens(self._costs, tokens)
            return
        costs = named(requests, tokens, others)
        if door._terms.learns:
            door._teach(self._costs, costs)
        if state != LET_THROUGH:
            self._costs = door._budget.settle(self._costs, costs)

    def _account(self, error: BaseException, *, owed: bool) -> None:
        ending = ending_of(error)
        self._door._failed(error, ending)
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
