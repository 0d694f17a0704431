"""Retry inside the limit: every attempt takes its own permit, failures back off with jitter.

Which errors are worth another attempt is `_feedback`'s; the permit itself refunds and pauses.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from greenkit.errors import LimitTimeout
from greenkit.limits._bell import Bell
from greenkit.limits._feedback import worth_another

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType

    from greenkit.limits._limiter import Limiter
    from greenkit.limits._permit import Permit

__all__ = ["Attempt", "Attempts"]

# Full jitter: anywhere between 0 and the cap of this attempt. The bounds are the openai SDK's.
_FIRST_BACKOFF = 0.5
_LONGEST_BACKOFF = 8.0


class Attempts:
    """Iterate over the attempts of one call; made by `Limiter.attempts()`."""

    __slots__ = ("_costs", "_deadline", "_limiter", "_retry_on")

    def __init__(
        self,
        limiter: Limiter,
        *,
        deadline: float,
        retry_on: Callable[[BaseException], bool] | None,
        costs: Mapping[str, float],
    ) -> None:
        self._limiter = limiter
        self._deadline = deadline
        self._retry_on = retry_on or worth_another
        self._costs = dict(costs)

    def __iter__(self) -> Iterator[Attempt]:
        """Yield attempts until one succeeds, or fails for good. Switches: may."""
        limiter = self._limiter
        until = limiter.clock.now() + self._deadline
        error: BaseException | None = None
        number = 0
        while True:
            number += 1
            attempt = Attempt(
                limiter, self._costs, number=number, until=until, retry_on=self._retry_on, last=error
            )
            yield attempt
            if attempt.backoff is None:
                return
            error = attempt.error
            limiter._budget.sleep(Bell(), attempt.backoff)


class Attempt:
    """Be one attempt: a context manager that gives the permit and keeps a passing failure quiet.

    Attributes:
        number: 1 for the first.
        error: What it failed with, or None.
        backoff: Seconds until the next attempt; None when there is none.
    """

    __slots__ = (
        "_costs",
        "_last",
        "_limiter",
        "_permit",
        "_retry_on",
        "_until",
        "backoff",
        "error",
        "number",
    )

    def __init__(
        self,
        limiter: Limiter,
        costs: dict[str, float],
        *,
        number: int,
        until: float,
        retry_on: Callable[[BaseException], bool],
        last: BaseException | None,
    ) -> None:
        self.number = number
        self.error: BaseException | None = None
        self.backoff: float | None = None
        self._limiter = limiter
        self._costs = costs
        self._until = until
        self._retry_on = retry_on
        self._last = last
        self._permit: Permit | None = None

    def __enter__(self) -> Permit:
        """Wait for this attempt's permit.

        Raises:
            LimitTimeout: It cannot come before the deadline; caused by the last failure.

        Switches: may.
        """
        left = self._until - self._limiter.clock.now()
        permit = self._limiter.permit(timeout=max(0.0, left), **self._costs)
        try:
            permit.__enter__()
        except LimitTimeout as error:
            raise error from self._last
        self._permit = permit
        return permit

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool:
        """End the permit; keep `error` quiet when another attempt is worth it and there is time.

        Switches: never.
        """
        if self._permit is not None:
            self._permit.__exit__(kind, error, trace)
        self.error = error
        if error is None or not self._retry_on(error):
            return False
        cap = min(_LONGEST_BACKOFF, _FIRST_BACKOFF * 2 ** min(self.number - 1, 10))
        backoff = random.uniform(0.0, cap)
        # No time for another: the failure itself tells more than a time-out in the line would.
        soonest = max(backoff, self._limiter.eta(**self._costs))
        if self._limiter.clock.now() + soonest >= self._until:
            return False
        self.backoff = backoff
        return True
