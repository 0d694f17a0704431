"""What a limiter answers with: a permit that knows what it cost, or a refusal that knows when.

Bookkeeping only; the waiting and the lock are the limiter's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from greenkit.facts import PermitGranted, emit, listening
from greenkit.limits._feedback import Ending, ending_of

if TYPE_CHECKING:
    from types import TracebackType

    from greenkit.limits._limiter import Limiter
    from greenkit.limits._rules import Amounts

__all__ = ["ENDED", "HELD", "NEW", "Permit", "Refusal"]

# What a permit is going through. Plain numbers: they are compared on every call.
NEW, HELD, ENDED = 0, 1, 2


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
    """Let one call through, at a cost that can be corrected once it is known.

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

    __slots__ = ("_costs", "_limiter", "_settled", "_state", "_timeout", "waited")

    def __init__(self, limiter: Limiter, costs: Amounts, timeout: float | None, state: int = NEW) -> None:
        self._limiter = limiter
        self._costs = costs
        self._timeout = timeout
        self._state = state
        self._settled = False
        self.waited = 0.0

    def __repr__(self) -> str:
        state = ("not entered", "held", "ended")[self._state]
        costs = ", ".join(f"{name}={cost:g}" for name, cost in self.costs.items())
        return f"<Permit of {self._limiter.name!r}, {costs}, {state}>"

    @property
    def costs(self) -> dict[str, float]:
        """Return what this permit costs as of now, by dimension."""
        return dict(zip(self._limiter.dimensions, self._costs, strict=True))

    def __enter__(self) -> Permit:
        """Wait, in order, until the cost may go.

        Raises:
            LimitTimeout: It cannot go in time; said at once, not at the end of the time.
            RuntimeError: The permit was used before.

        Switches: may.
        """
        if self._state == NEW:
            waited = self._limiter._enter(self._costs, self._timeout)
            self._state = HELD
            self.waited = waited
            if listening():
                emit(PermitGranted(self._limiter.name, waited))
        elif self._state == ENDED:
            msg = f"{self!r} was used before; every call takes its own permit()"
            raise RuntimeError(msg)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """End the call: give back its slot, and its cost as far as `error` says it did not count.

        Switches: never.
        """
        self._state = ENDED
        limiter = self._limiter
        if error is not None:
            # Finally: what the error says of itself is foreign code, and the slot is not its own.
            try:
                self._account(error)
            finally:
                limiter._leave()
        elif limiter._slots is not None:
            limiter._slots.release()

    def settle(self, **costs: float) -> None:
        """Say what the call really cost: the rest is refunded, or the debt is charged.

        Dimensions not named keep what they cost. May be said again when more is known, and after
        the block. A debt makes those who come next wait; it is never refused.

        Raises:
            RuntimeError: The permit was not entered yet, so there is nothing to settle.
            TypeError: A name is no dimension of this limiter.
            ValueError: A cost is negative or not a number.

        Switches: never.
        """
        if self._state == NEW:
            msg = f"{self!r}: settle() belongs inside the with block, once the cost is known"
            raise RuntimeError(msg)
        self._costs = self._limiter._settle(self._costs, costs)
        self._settled = True

    def _account(self, error: BaseException) -> None:
        ending = ending_of(error)
        if ending is Ending.REJECTED:
            self._limiter._rejected(error)
        if ending is not Ending.SPENT and not self._settled:
            keep = "requests" if ending is Ending.REJECTED else ""
            refund = {name: 0.0 for name in self._limiter.dimensions if name != keep}
            self._costs = self._limiter._settle(self._costs, refund)
