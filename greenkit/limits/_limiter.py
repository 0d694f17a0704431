"""The limiter people hold: permits, calls, attempts, and what servers said, over one budget.

Ways to ask are here; order and waiting are `_budget`'s, arithmetic is `_rules`'.
"""

from __future__ import annotations

import math
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

from greenkit import facts
from greenkit._clock import MONOTONIC, Clock
from greenkit.errors import LimitTimeout, RateLimited, WaitTimeout, WouldWait
from greenkit.limits._attempts import Attempts
from greenkit.limits._budget import Budget
from greenkit.limits._feedback import LONGEST_PAUSE, TOO_MANY, headers_of, retry_after_in
from greenkit.limits._parse import Rate, parse_rate
from greenkit.limits._permit import HELD, Permit, Refusal
from greenkit.limits._rules import Rule, Rules
from greenkit.limits._statistics import LimiterStatistics, Waits
from greenkit.wait import WaitLine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from greenkit.limits._rules import Amounts

    T = TypeVar("T")
    Cost = float | Callable[..., float]

__all__ = ["Limiter"]

# Names our own options have, or will have: a dimension of that name could not be given a cost.
_TAKEN = frozenset(
    [
        "clock",
        "concurrency",
        "deadline",
        "feedback",
        "key",
        "max_wait",
        "name",
        "priority",
        "retry_on",
        "settle",
        "share",
        "strict",
        "timeout",
    ]
)
# How long a 429 that does not say pauses everybody.
_DEFAULT_PAUSE = 1.0
# When only a slot is missing nobody knows when one comes back; callers still need a number.
_SLOT_RETRY = 0.1
_BUSY = frozenset({503, 529})


class Limiter:
    """Let no more through than every one of its dimensions allows, in the order it was asked.

    One limiter is shared by everything that uses the same quota in this process: make it once,
    at module level. Safe from several native threads and after `fork` (each process then has
    the whole budget to itself).

    Args:
        name: Shown in errors, statistics and metrics.
        requests: Calls, such as `"500/min"`; a permit costs one unless told otherwise.
        tokens: Whatever else is counted, such as `"90_000/min burst 9_000"`.
        concurrency: Permits held at once.
        strict: Never exceed an amount in *any* window of its period. Otherwise a window that
            begins idle may see the burst on top.
        clock: Where time comes from.
        others: Further dimensions by name.

    Raises:
        ConfigError: A limit cannot be read, or strict leaves nothing of it.
        TypeError: There is nothing to limit, or a dimension has a name that is an option's.

    Example:
        llm = Limiter("openai", requests="500/min", tokens="90_000/min burst 9_000", concurrency=64)
    """

    __slots__ = (
        "__weakref__",
        "_budget",
        "_free",
        "_price",
        "_refusals",
        "_rejections",
        "_rules",
        "_settle",
        "_slots",
        "_take_nowait",
        "_timeouts",
        "_waits",
        "clock",
        "name",
    )

    def __init__(
        self,
        name: str,
        *,
        requests: str | Rate | None = None,
        tokens: str | Rate | None = None,
        concurrency: int | None = None,
        strict: bool = False,
        clock: Clock = MONOTONIC,
        **others: str | Rate,
    ) -> None:
        given = {"requests": requests, "tokens": tokens, **others}
        self.name = name
        self.clock = clock
        self._rules = Rules(
            [_rule(one, rate, strict=strict) for one, rate in given.items() if rate is not None]
        )
        if not self._rules.names and concurrency is None:
            msg = f'Limiter({name!r}) limits nothing; give requests="500/min", concurrency=64, or both'
            raise TypeError(msg)
        if concurrency is not None and concurrency < 1:
            msg = f"concurrency must be at least 1, not {concurrency!r}: nothing could ever run"
            raise ValueError(msg)
        self._slots = None if concurrency is None else WaitLine(concurrency, name=name)
        self._budget = Budget(self._rules, clock=clock, name=name)
        # Looked up once: these run on every permit.
        self._take_nowait = self._budget.take_nowait
        self._settle = self._budget.settle
        self._price = self._rules.price
        self._free = self._rules.price({})
        self._waits = Waits()
        self._refusals = self._timeouts = self._rejections = 0
        facts.register("limiter", self)

    def __repr__(self) -> str:
        rates = ", ".join(f"{one.name} {one.rate.amount:g}/{one.rate.period:g}s" for one in self._rules.rules)
        slots = self._slots.statistics() if self._slots is not None else None
        held = f", {slots.in_use}/{slots.size} held" if slots is not None else ""
        paused = self._budget.paused_for()
        pause = f", paused for {paused:.3g} s" if paused else ""
        return f"<Limiter {self.name!r} {rates or 'any rate'}{held}, {self._waiting()} waiting{pause}>"

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Return the names costs can be given in."""
        return self._rules.names

    def permit(self, *, timeout: float | None = None, **costs: float) -> Permit:
        """Return a permit that is waited for, in order, by entering it.

        Args:
            timeout: Seconds entering may take; None waits as long as it takes. A wait that cannot
                end in time fails at once.
            costs: By dimension; `requests` is 1 unless given, others are 0.

        Raises:
            CostTooHighError: A cost exceeds its burst; no wait can help.
            TypeError: A cost names no dimension.

        Switches: never; entering may.
        """
        return Permit(self, self._price(costs) if costs else self._free, timeout)

    def try_permit(self, **costs: float) -> Permit | Refusal:
        """Take a permit if it may go this instant and nobody waits for one; never queue.

        Returns:
            A permit that is already taken (use it in a `with`, which then does not wait), or a
            `Refusal`, which is falsy.

        Raises:
            CostTooHighError: A cost exceeds its burst.
            TypeError: A cost names no dimension.

        Switches: never.
        """
        priced = self._price(costs) if costs else self._free
        slots = self._slots
        if slots is not None and not slots.acquire_nowait():
            return self._refuse(max(self._budget.eta(priced), _SLOT_RETRY))
        wait = self._take_nowait(priced)
        if not wait:
            return Permit(self, priced, None, HELD)
        if slots is not None:
            slots.release()
        return self._refuse(wait)

    def call(self, fn: Callable[..., T], /, *args: Any, max_wait: float | None = None, **costs: Cost) -> T:
        """Run `fn(*args)` under a permit, or say that it would have to wait too long.

        Args:
            fn: What to run; for keyword arguments of its own use `functools.partial`.
            args: Its arguments.
            max_wait: Seconds it may wait here; None for as long as it takes.
            costs: By dimension: a number, or a function of `args`.

        Raises:
            WouldWait: The permit would come later than that; `eta` says when. A Celery task
                turns it into `retry(countdown=exc.eta)` and frees its slot meanwhile.

        Switches: may.
        """
        permit = self.permit(timeout=max_wait, **_evaluated(costs, args, {}))
        try:
            permit.__enter__()
        except LimitTimeout as error:
            self._refusals += 1
            msg = f"limit {self.name!r} would let this through in {error.retry_after:.3g} s; come back then"
            raise WouldWait(msg, eta=error.retry_after) from None
        with permit:
            return fn(*args)

    def attempts(
        self,
        *,
        deadline: float,
        retry_on: Callable[[BaseException], bool] | None = None,
        **costs: float,
    ) -> Attempts:
        """Return attempts to iterate over, each of which takes and pays its own permit.

        The loop ends when a block succeeds. A failure that is worth another attempt is kept
        quiet and followed by a pause with full jitter; the last one, or one for which no time is
        left, is raised.

        Args:
            deadline: Seconds for all of it, waits included.
            retry_on: Tells which errors are worth another attempt. Default: 408, 409, 425, 429,
                5xx and broken connections, but never an exhausted quota.
            costs: By dimension, for each attempt.

        Example:
            for attempt in llm.attempts(tokens=900, deadline=120.0):
                with attempt as permit:
                    reply = ask()
                    permit.settle(tokens=reply.usage.total_tokens)
        """
        return Attempts(self, deadline=deadline, retry_on=retry_on, costs=costs)

    def limited(
        self, *, timeout: float | None = None, **costs: Cost
    ) -> Callable[[Callable[..., T]], Callable[..., T]]:
        """Return a decorator that runs each call of a function under a permit.

        Args:
            timeout: Seconds a call may wait for it.
            costs: By dimension: a number, or a function of the call's arguments.
        """

        def decorate(fn: Callable[..., T]) -> Callable[..., T]:
            @wraps(fn)
            def run(*args: Any, **kwargs: Any) -> T:
                with self.permit(timeout=timeout, **_evaluated(costs, args, kwargs)):
                    return fn(*args, **kwargs)

            return run

        return decorate

    def pause(self, seconds: float) -> None:
        """Let nobody through for `seconds` from now; never shortens a pause in force.

        Switches: never.
        """
        if not 0 <= seconds < math.inf:
            msg = f"a pause lasts 0 seconds or more, and ends, not {seconds!r}"
            raise ValueError(msg)
        self._budget.pause(seconds)

    def observe(self, status: int, headers: Mapping[str, str]) -> None:
        """Learn from a server's answer: a 429 pauses everybody.

        For as long as `Retry-After` or `retry-after-ms` says, at most 120 s; 1 s when neither is
        there. A 503 or 529 pauses when it says for how long. A 429 that leaves a permit's block
        as an error is learnt from already.

        Switches: never.
        """
        asked = retry_after_in(headers)
        if status == TOO_MANY:
            self._slow_down(asked)
        elif status in _BUSY and asked is not None:
            self._budget.pause(asked)

    def eta(self, **costs: float) -> float:
        """Return the seconds until these costs would be granted, behind all who wait now.

        An estimate: costs given back meanwhile shorten it, pauses and debts lengthen it.

        Switches: never.
        """
        return self._budget.eta(self._price(costs))

    def statistics(self) -> LimiterStatistics:
        """Return a frozen account of this instant.

        Switches: never.
        """
        slots = self._slots.statistics() if self._slots is not None else None
        granted = self._budget.granted
        return LimiterStatistics(
            granted=granted,
            refused=self._refusals,
            timed_out=self._timeouts,
            rejected=self._rejections,
            waiting=self._waiting(),
            in_use=slots.in_use if slots is not None else 0,
            concurrency=slots.size if slots is not None else None,
            wait_p50=self._waits.quantile(0.50, of=granted),
            wait_p95=self._waits.quantile(0.95, of=granted),
            wait_max=self._waits.longest,
            paused_for=self._budget.paused_for(),
            available=self._budget.available(),
        )

    def _enter(self, costs: Amounts, timeout: float | None) -> float:
        """Take a slot and the budget, for a permit; return the seconds that took."""
        slots = self._slots
        if slots is None:
            if not self._take_nowait(costs):
                return 0.0
            return self._queue(costs, timeout, holding=True)
        if not slots.acquire_nowait():
            return self._queue(costs, timeout, holding=False)
        if not self._take_nowait(costs):
            return 0.0
        return self._queue(costs, timeout, holding=True)

    def _queue(self, costs: Amounts, timeout: float | None, *, holding: bool) -> float:
        start = self.clock.now()
        try:
            if not holding and self._slots is not None:
                self._slots.acquire(timeout=timeout)
                holding = True
            self._budget.take(costs, until=math.inf if timeout is None else start + timeout)
        except BaseException as error:
            if holding:
                self._leave()
            if isinstance(error, WaitTimeout):
                self._timeouts += 1
                raise self._timed_out(error, costs) from None
            raise
        waited = self.clock.now() - start
        self._waits.add(waited)
        return waited

    def _leave(self) -> None:
        if self._slots is not None:
            self._slots.release()

    def _rejected(self, error: BaseException) -> None:
        asked = error.retry_after if isinstance(error, RateLimited) else retry_after_in(headers_of(error))
        self._slow_down(asked)

    def _slow_down(self, asked: float | None) -> None:
        pause = _DEFAULT_PAUSE if asked is None else min(max(asked, 0.0), LONGEST_PAUSE)
        self._rejections += 1
        self._budget.pause(pause)
        if facts.listening():
            facts.emit(facts.ServerSaidSlowDown(self.name, pause))

    def _refuse(self, wait: float) -> Refusal:
        self._refusals += 1
        if facts.listening():
            facts.emit(facts.PermitRefused(self.name, wait))
        return Refusal(self.name, wait)

    def _timed_out(self, error: WaitTimeout, costs: Amounts) -> LimitTimeout:
        if isinstance(error, LimitTimeout):
            return error
        retry_after = max(self._budget.eta(costs), _SLOT_RETRY)
        return LimitTimeout(f"limit {self.name!r}: {error}", retry_after=retry_after)

    def _waiting(self) -> int:
        return self._budget.waiting + (self._slots.statistics().waiting if self._slots is not None else 0)


def _rule(name: str, rate: str | Rate, *, strict: bool) -> Rule:
    if name in _TAKEN or not name.isidentifier():
        msg = f"{name!r} cannot name a dimension: it is, or may become, an option of Limiter or permit()"
        raise TypeError(msg)
    return Rule(name, rate if isinstance(rate, Rate) else parse_rate(rate), strict)


def _evaluated(costs: Mapping[str, Cost], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, float]:
    return {name: cost(*args, **kwargs) if callable(cost) else cost for name, cost in costs.items()}
