"""Answer a caller: with a permit that knows what it cost, a refusal that knows when, or attempts.

Bookkeeping only: the budget waits and locks, `_feedback` reads what an error means.
"""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from greenkit import facts
from greenkit.errors import LimitTimeout
from greenkit.limits._feedback import LONGEST_PAUSE, Ending, answered, ending_of, worth_another
from greenkit.limits._queue import NORMAL, RETRY, entered, sleep
from greenkit.limits._rates import charged
from greenkit.responses import Answer, read

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping
    from types import TracebackType
    from typing import Literal

    from greenkit._clock import Clock
    from greenkit.limits._gcra import Amounts


__all__ = [
    "HELD",
    "LET_THROUGH",
    "NEW",
    "TAKEN",
    "TAKEN_SHADOW",
    "Attempts",
    "Issuer",
    "Permit",
    "Refusal",
    "RetryBudget",
    "named",
]

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


class Issuer(Protocol):
    """Be who a permit is of: a limiter, or a key of one."""

    _terms: Any  # what all keys of a limiter have in common

    @property
    def name(self) -> str:
        """Return the limiter's name."""

    @property
    def clock(self) -> Clock:
        """Return where time comes from."""

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Return the names costs can be given in."""

    @property
    def _budget(self) -> Any: ...

    def _take_nowait(self, costs: Amounts, /) -> float: ...

    def _wait(self, permit: Permit) -> None: ...

    def _teach(self, before: Amounts, costs: Mapping[str, float]) -> None: ...

    def _failed(
        self, error: BaseException, answer: Answer, ending: Ending, *, alone: bool = False
    ) -> None: ...


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
    __slots__ = ("_costs", "_lane", "_limiter", "_probe", "_since", "_state", "_timeout", "waited")

    _costs: Amounts
    _limiter: Issuer
    _lane: int
    _probe: Any  # number of the pause after which it goes first, and the others wait for its answer; else 0
    _since: BaseException | None  # what was being handled on entering: older than the call
    _state: int
    _timeout: float | None
    waited: float

    def __repr__(self) -> str:
        costs = ", ".join(f"{name}={cost:g}" for name, cost in self.costs.items())
        return f"<Permit of {self._limiter.name!r}, {costs}, {_SHOWN[self._state]}>"

    def __bool__(self) -> Literal[True]:
        return True

    @property
    def costs(self) -> dict[str, float]:
        """Return what this permit costs as of now, by dimension."""
        costs: dict[str, float] = self._limiter._terms.rules.by_dimension(self._costs)
        return costs

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
        limiter = self._limiter
        if limiter._take_nowait(self._costs):
            limiter._wait(self)
        else:
            self._state = HELD
        self._probe = limiter._budget.probe()
        if limiter._terms.by_calendar:
            self._costs = charged(self._costs, limiter.clock, waited=self.waited > 0)
        if facts.listeners:
            facts.emit(facts.PermitGranted(limiter.name, self.waited))
        return self

    async def __aenter__(self) -> Permit:
        """Enter from a coroutine: it waits in the same queue, and its loop goes on.

        Raises:
            LimitTimeout: It cannot go in time. RuntimeError: The permit was used before, or is held.

        Switches: never; the coroutine waits.
        """
        self._since = sys.exc_info()[1]
        if not self._state and not self._limiter._take_nowait(self._costs):  # 0.0 is a yes
            self._state = HELD
            self._probe = self._limiter._budget.probe()
            if self._limiter._terms.by_calendar:
                self._costs = charged(self._costs, self._limiter.clock, waited=False)
            if facts.listeners:
                facts.emit(facts.PermitGranted(self._limiter.name, self.waited))
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
        limiter = self._limiter
        if error is None:
            if self._probe:
                self._answered(passed=True)
            if not limiter._terms.counts_slots:
                self._since = None
                return
        # Finally: reading a foreign exception may raise; release the slot regardless.
        try:
            if error is not None:
                self._account(error, owed=state in (HELD, TAKEN), alone=alone)
            elif state not in _SHADOWS:
                limiter._budget.heard(error=False)
        finally:
            self._since = None
            if self._probe:
                self._answered(passed=False)  # not heard of: another goes first
            if state not in _SHADOWS:
                limiter._budget.give_back_slot()

    def _answered(self, *, passed: bool) -> None:
        number, self._probe = self._probe, 0
        self._limiter._budget.probe_answered(number, passed=passed)

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
        limiter = self._limiter
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
        if limiter._terms.learns:
            limiter._teach(self._costs, costs)
        if state not in _SHADOWS:
            self._costs = limiter._budget.settle(self._costs, costs)

    def cancel(self) -> None:
        """Give everything back, as if the permit had never been taken: the call was not made.

        Switches: never.
        """
        state, self._state = self._state, ENDED
        self._probe, self._since = 0, None
        if state not in _SHADOWS and state not in {NEW, ENDED}:
            self._limiter._budget.take_back(self._costs)

    def _account(self, error: BaseException, *, owed: bool, alone: bool) -> None:
        since = getattr(self, "_since", None)
        answer = read(error, since=since)
        ending = ending_of(error, answer, since=since)
        self._limiter._failed(error, answer, ending, alone=alone)
        if self._probe and answered(error, answer, ending, since=since):
            self._answered(passed=True)
        if ending is not Ending.SPENT and owed:
            keep = "requests" if ending is Ending.REJECTED else ""
            refund = {name: 0.0 for name in self._limiter.dimensions if name != keep}
            self._costs = self._limiter._budget.settle(self._costs, refund)


def named(requests: float | None, tokens: float | None, others: dict[str, float]) -> dict[str, float]:
    """Return costs by name, of arguments that may not have been given; `others` with the rest put in."""
    if requests is not None:
        others["requests"] = requests
    if tokens is not None:
        others["tokens"] = tokens
    return others


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
        "_entered",
        "_limiter",
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
        limiter: Issuer,
        deadline: float,
        retry_on: Callable[[BaseException], bool] | None,
        budget: RetryBudget | None,
        costs: Amounts,
        /,
        *,
        most: int | None,
        timeout: float | None,
    ) -> None:
        self._limiter = limiter
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
                f"attempt {self.number} of {self._limiter.name!r} was not entered: what the loop did was "
                "not limited, and is not tried again. In the loop write `with attempt:`"
            )
            raise RuntimeError(msg)
        return self.backoff

    def _go_on(self) -> None:
        self.number += 1
        self.backoff = None

    def _begin(self) -> None:
        self._until = self._limiter._terms.clock.now() + self._deadline
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
        limiter = self._limiter
        self._entered = True
        self._permit = permit = Permit()
        permit._limiter = limiter
        permit._costs = self._costs
        permit._state = permit._probe = NEW
        permit.waited = 0.0
        if self.number == 1:
            permit._timeout, permit._lane = self._timeout, NORMAL
            return permit.__enter__()
        # After two refusals it waits in the normal lane, or it would be first after every pause.
        permit._lane = NORMAL if self._rejections > 1 else RETRY
        permit._timeout = self._until - limiter._terms.clock.now()
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
        (granted, rejected), tally = self._seen, self._limiter._terms.tally
        now = self._limiter._budget.view().state.granted
        self._seen = now, tally.rejected + 1
        # One of the granted is this call's own.
        return self._rejections > 1 and now > granted + 1 and tally.rejected <= rejected

    def _backoff(self, error: BaseException, asked: float, since: BaseException | None) -> float | None:
        limiter = self._limiter
        worth = worth_another(error, since=since) if self._retry_on is None else self._retry_on(error)
        if not worth or self._rejections >= MOST_REJECTIONS or self.number == self._most:
            return None
        cap = min(_LONGEST_BACKOFF, _FIRST_BACKOFF * 2 ** min(self.number - 1, 10))
        backoff = max(asked, random.uniform(0.0, cap))
        # No time for another attempt: the failure tells more than a time-out in the queue.
        soonest = max(backoff, limiter._budget.eta(self._costs))
        if limiter._terms.clock.now() + soonest >= self._until:
            return None
        if self._budget is not None and not self._budget.allows(error):
            return None
        return backoff
