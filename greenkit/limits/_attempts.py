"""Retry inside the limit: every attempt takes its own permit, failures back off with jitter.

Which errors are worth another attempt is `_feedback`'s; the permit itself refunds and pauses.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from greenkit.errors import LimitTimeout
from greenkit.limits._permit import LONGEST_PAUSE, NEW, Ending, Permit, ending_of, entered, worth_another
from greenkit.limits._queue import NORMAL, RETRY, sleep
from greenkit.responses import read

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from types import TracebackType

    from greenkit.limits._gcra import Amounts
    from greenkit.limits._permit import Issuer

__all__ = ["Attempts", "RetryBudget"]

# Full jitter: anywhere between 0 and the cap of this attempt. The bounds are the openai SDK's.
_FIRST_BACKOFF = 0.5
_LONGEST_BACKOFF = 8.0
# A call that is refused so often is refused for itself: Groq and OpenAI say 429 to what is too large, too.
MOST_REJECTIONS = 8


class RetryBudget:
    """Allow so many retries per first attempt, so that a sick server is not asked twice as much.

    A 429 is not counted: the pause and the limit hold those back already.

    Args:
        share: Retries per first attempt, in the long run.
        least: Retries allowed before there were any first attempts, and kept in hand at most ten times.
    """

    __slots__ = ("_left", "_most", "_share")

    def __init__(self, share: float, *, least: int = 10) -> None:
        if not 0 <= share <= 1:
            msg = f"retry_share must be between 0 (no retries but after 429) and 1, not {share!r}"
            raise ValueError(msg)
        self._share = share
        self._left = float(least) if share else 0.0
        self._most = 10.0 * least

    def first(self) -> None:
        """Count a first attempt."""
        self._left = min(self._most, self._left + self._share)

    def allows(self, error: BaseException) -> bool:
        """Take a retry after `error` if one is left; tell whether it was."""
        if ending_of(error) is Ending.REJECTED:
            return True
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


class Attempts:
    """Iterate over the attempts of one call; made by `attempts()` of a limiter.

    What the loop gets is this object each time: a context manager that gives the attempt's permit, and
    keeps a passing failure quiet.

    Attributes:
        number: Of the attempt under way, 1 for the first.
        error: What the last one failed with, or None.
        backoff: Seconds until the next attempt; None when there is none.
    """

    __slots__ = (
        "_budget",
        "_costs",
        "_deadline",
        "_door",
        "_entered",
        "_most",
        "_permit",
        "_rejections",
        "_retry_on",
        "_seen",
        "_timeout",
        "_until",
        "backoff",
        "error",
        "number",
    )

    _entered: bool
    _permit: Permit
    _rejections: int
    _seen: tuple[int, int]
    _until: float
    backoff: float | None
    error: BaseException | None
    number: int

    def __init__(
        self,
        door: Issuer,
        deadline: float,
        retry_on: Callable[[BaseException], bool] | None,
        budget: RetryBudget | None,
        costs: Amounts,
        /,
        *,
        most: int | None,
        timeout: float | None,
    ) -> None:
        self._door = door
        self._deadline = deadline
        self._retry_on = retry_on
        self._budget = budget
        self._costs = costs
        self._most = most
        self._timeout = deadline if timeout is None else min(timeout, deadline)

    def __iter__(self) -> Iterator[Attempts]:
        """Yield itself until an attempt succeeds, or fails for good.

        Raises:
            RuntimeError: The attempt was not entered, so nothing was limited and nothing is tried again.

        Switches: may.
        """
        self._begin()
        while True:
            self._entered = False
            yield self
            backoff = self._backoff_after()
            if backoff is None:
                return
            sleep(backoff)
            self._go_on()

    async def __aiter__(self) -> AsyncIterator[Attempts]:
        """Yield itself as `for` does; in an `async for` write `async with attempt:`.

        Raises:
            RuntimeError: The attempt was not entered, so nothing was limited and nothing is tried again.

        Switches: never; the coroutine waits.
        """
        import asyncio  # late: programs without coroutines do not load it

        self._begin()
        while True:
            self._entered = False
            yield self
            backoff = self._backoff_after()
            if backoff is None:
                return
            await asyncio.sleep(backoff)
            self._go_on()

    def _backoff_after(self) -> float | None:
        """Return how long to wait before the next attempt; None when there is none."""
        if not self._entered:
            msg = (
                f"attempt {self.number} of {self._door.name!r} was not entered: what the loop did was "
                "not limited, and is not tried again. In the loop write `with attempt:`"
            )
            raise RuntimeError(msg)
        return self.backoff

    def _go_on(self) -> None:
        self.number += 1
        self.backoff = None

    def _begin(self) -> None:
        self._until = self._door._terms.clock.now() + self._deadline
        self.number = 1
        self.error = self.backoff = None
        self._rejections, self._seen = 0, (0, 0)
        if self._budget is not None:
            self._budget.first()

    def __enter__(self) -> Permit:
        """Wait for this attempt's permit.

        Raises:
            LimitTimeout: It cannot come before the deadline; caused by the last failure.

        Switches: may.
        """
        door = self._door
        self._entered = True
        self._permit = permit = Permit()
        permit._door = door
        permit._costs = self._costs
        permit._state = permit._probe = NEW
        permit.waited = 0.0
        if self.number == 1:
            permit._timeout, permit._lane = self._timeout, NORMAL
            return permit.__enter__()
        # Refused again and again it waits like the others, or it would be the first to go after every pause.
        permit._lane = NORMAL if self._rejections > 1 else RETRY
        permit._timeout = self._until - door._terms.clock.now()
        try:
            return permit.__enter__()
        except LimitTimeout as error:
            raise error from self.error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool:
        """End the permit; keep `error` quiet when another attempt is worth it and there is time.

        Switches: never.
        """
        permit = self._permit
        since = permit._since
        if error is None:
            permit._end(None)
            return False
        self.error = error
        answer = read(error, since=since)
        alone = answer.limited and self._is_alone()
        permit._end(error, alone=alone)
        # What nobody else waits for, the call waits for itself.
        asked = min(answer.retry_after or 0.0, LONGEST_PAUSE) if alone else 0.0
        self.backoff = self._backoff(error, asked, since)
        return self.backoff is not None

    async def __aenter__(self) -> Permit:
        """Wait for this attempt's permit in a coroutine.

        Raises:
            LimitTimeout: It cannot come before the deadline; caused by the last failure.

        Switches: never; the coroutine waits.
        """
        return await entered(self.__enter__, self._give_back)

    def _give_back(self, error: BaseException) -> None:
        self._permit._end(error)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool:
        """End the permit, as leaving a `with` block does.

        Switches: never.
        """
        return self.__exit__(kind, error, trace)

    def _is_alone(self) -> bool:
        """Count a 429, and tell whether others went since this call's last, and none of them was refused."""
        self._rejections += 1
        (granted, rejected), tally = self._seen, self._door._terms.tally
        now = self._door._budget.view().state.granted
        self._seen = now, tally.rejected + 1
        # One of the granted is this call's own.
        return self._rejections > 1 and now > granted + 1 and tally.rejected <= rejected

    def _backoff(self, error: BaseException, asked: float, since: BaseException | None) -> float | None:
        door = self._door
        worth = worth_another(error, since=since) if self._retry_on is None else self._retry_on(error)
        if not worth or self._rejections >= MOST_REJECTIONS or self.number == self._most:
            return None
        cap = min(_LONGEST_BACKOFF, _FIRST_BACKOFF * 2 ** min(self.number - 1, 10))
        backoff = max(asked, random.uniform(0.0, cap))
        # No time for another: the failure itself tells more than a time-out in the queue would.
        soonest = max(backoff, door._budget.eta(self._costs))
        if door._terms.clock.now() + soonest >= self._until:
            return None
        if self._budget is not None and not self._budget.allows(error):
            return None
        return backoff
