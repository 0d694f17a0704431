"""The ways to ask: permits, calls, attempts, decorators, and what servers said, over one budget.

A `Limiter` is one, and so is each of its keys. Order and waiting are `_local`'s, arithmetic is `_gcra`'s.
"""

from __future__ import annotations

import inspect
import math
from copy import copy
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from greenkit import facts
from greenkit.errors import CostTooHighError, LimitTimeout, WouldWait
from greenkit.limits._feedback import LONGEST_PAUSE, Ending, meant, too_busy
from greenkit.limits._permit import HELD, LET_THROUGH, TAKEN, TAKEN_SHADOW, Attempts, Permit, Refusal, named
from greenkit.limits._queue import NORMAL, lane_of
from greenkit.limits._rates import charged
from greenkit.limits._statistics import Guess, LimiterStatistics, Tally
from greenkit.responses import Answer, plain_headers, read_answer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from greenkit._clock import Clock
    from greenkit.limits._feedback import Reader
    from greenkit.limits._gcra import Amounts, Rules
    from greenkit.limits._permit import RetryBudget

    P = ParamSpec("P")
    T = TypeVar("T")
    Cost = float | Callable[..., float]
    Pricing = Callable[[Mapping[str, float]], Amounts]

__all__ = ["BaseLimiter", "Terms"]

# The dimensions of nearly every limiter of an LLM.
_PAIR = ("requests", "tokens")


class Terms:
    """Hold what a limiter and all its keys have in common: the limits, how they are read, and the counts.

    Args:
        name: Of the limiter.
        clock: Where time comes from.
        read: Reads a server's headers.
        retries: How many retries there may be, or None for any.
        shadow: Hold nothing back.
        counts_slots: A permit takes a slot, and gives it back.

    Attributes:
        by_calendar: Windows by the calendar are among the limits.
        learns: An estimate was made, which `settle()` teaches.
        tally: What happened.
        rules: As configured.
        free: What a permit costs of which nothing is said.
        price: From costs by name.
        most_tokens: The highest whole cost in tokens that needs no `price()`; -1 where there is none.
    """

    __slots__ = (
        "by_calendar",
        "clock",
        "counts_slots",
        "free",
        "learns",
        "most_tokens",
        "name",
        "price",
        "read",
        "retries",
        "rules",
        "shadow",
        "tally",
    )

    rules: Rules
    free: Amounts
    price: Pricing
    most_tokens: int

    def __init__(
        self,
        name: str,
        *,
        clock: Clock,
        read: Reader,
        retries: RetryBudget | None,
        shadow: bool,
        counts_slots: bool,
    ) -> None:
        self.name = name
        self.clock = clock
        self.read = read
        self.retries = retries
        self.shadow = shadow
        self.counts_slots = counts_slots
        self.learns = self.by_calendar = False
        self.tally = Tally()

    def under(self, rules: Rules) -> Terms:
        """Return the same, and the same counts, under other rules."""
        terms = copy(self)
        terms.follow(rules)
        return terms

    def follow(self, rules: Rules) -> None:
        """Have all of it be that of `rules`."""
        self.rules = rules
        self.by_calendar = rules.calendars
        self.free = rules.price({})
        self.price = _softly(rules.price) if self.shadow else rules.price
        # An int, as costs in tokens are: comparing one with a float takes three times as long.
        self.most_tokens = int(rules.rules[1].largest) if rules.names == _PAIR else -1


def _softly(price: Pricing) -> Pricing:
    """Return `price` for a shadow: a cost no wait could help with is let through, and counted as 0."""

    def priced(costs: Mapping[str, float]) -> Amounts:
        try:
            return price(costs)
        except CostTooHighError:
            return price({})

    return priced


# How long a 429 that does not say pauses everybody.
_DEFAULT_PAUSE = 1.0
# Anthropic's and Cloudflare's word for an overload; inside a stream its HTTP status is 200.
_OVERLOADED = 529


class BaseLimiter:
    """Let calls through as one budget allows; `Limiter` says what that is."""

    __slots__ = ("__weakref__", "_terms")

    _terms: Terms

    if TYPE_CHECKING:  # slots of a limiter, methods of a key

        @property
        def _budget(self) -> Any: ...  # a LocalBudget, or what does as it does
        def _take_nowait(self, costs: Amounts, /) -> float: ...
        def _try_take(self, costs: Amounts, /) -> float: ...

    @property
    def name(self) -> str:
        """Return the limiter's name."""
        return self._terms.name

    @property
    def clock(self) -> Clock:
        """Return where time comes from."""
        return self._terms.clock

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Return the names costs can be given in."""
        return self._terms.rules.dimensions

    def permit(
        self,
        *,
        timeout: float | None = None,
        priority: str = "normal",
        requests: float | None = None,
        tokens: float | None = None,
        **others: float,
    ) -> Permit:
        """Return a permit that is waited for, in order, by entering it.

        Args:
            timeout: Seconds entering may take; None waits as long as it takes. A wait that cannot
                end in time fails at once.
            priority: "retry" goes before "normal" and that before "batch"; of eight grants that go before
                a lower one, the ninth is its own.
            requests: What it costs of this dimension; 1 unless given.
            tokens: Likewise, 0 unless given.
            others: Of further dimensions by name, 0 unless given.

        Raises:
            CostTooHighError: A cost exceeds the burst given, or the amount; no wait can help.
            TypeError: A cost names no dimension, or `timeout` is no number.
            ValueError: `timeout` is NaN.

        Switches: never; entering may.
        """
        # Written out here and in try_permit(): it runs on every permit, and a call costs as much.
        terms = self._terms
        if requests is not None or others:
            costs = terms.price(named(requests, tokens, others))
        elif tokens is None:
            costs = terms.free
        elif type(tokens) is int and 0 <= tokens <= terms.most_tokens:
            costs = (1.0, tokens)
        else:
            costs = terms.price({"tokens": tokens})
        if timeout is not None:
            check_seconds("timeout", timeout)
        permit = Permit()
        permit._limiter = self
        permit._costs = costs
        permit._timeout = timeout
        permit._lane = NORMAL if priority == "normal" else lane_of(priority)
        permit._state = permit._probe = 0
        permit.waited = 0.0
        return permit

    def try_permit(
        self, *, requests: float | None = None, tokens: float | None = None, **others: float
    ) -> Permit | Refusal:
        """Take a permit if it may go this instant and nobody waits for one; never queue.

        Args:
            requests: As in `permit()`.
            tokens: As in `permit()`.
            others: As in `permit()`.

        Returns:
            A permit that is already taken (use it in a `with`, which then does not wait), or a
            `Refusal`, which is falsy.

        Raises:
            CostTooHighError: A cost exceeds the burst given, or the amount.
            TypeError: A cost names no dimension.

        Switches: never; of a shared limiter it asks the backend, and may.
        """
        terms = self._terms
        if requests is not None or others:
            costs = terms.price(named(requests, tokens, others))
        elif tokens is None:
            costs = terms.free
        elif type(tokens) is int and 0 <= tokens <= terms.most_tokens:
            costs = (1.0, tokens)
        else:
            costs = terms.price({"tokens": tokens})
        wait = self._try_take(costs)
        if wait and not terms.shadow:
            return self._refuse(wait, costs)
        permit = Permit()
        permit._limiter = self
        permit._costs = costs
        permit._state = TAKEN
        permit._probe = self._budget.probe()
        if terms.by_calendar:
            permit._costs = charged(costs, terms.clock, waited=False)
        permit.waited = 0.0
        if wait:
            self._let_through(permit, wait)
            permit._state = TAKEN_SHADOW
        if facts.listeners:
            facts.emit(facts.PermitGranted(self.name, 0.0))
        return permit

    def call(self, fn: Callable[..., T], /, *args: Any, max_wait: float | None = None, **costs: Cost) -> T:
        """Run `fn(*args)` under a permit, or say that it would have to wait too long.

        Args:
            fn: What to run; for keyword arguments of its own use `functools.partial`.
            args: Its arguments.
            max_wait: Seconds it may wait here; None for as long as it takes.
            costs: By dimension: a number, or a function of `args`.

        Raises:
            TypeError: `fn` is a generator or coroutine function, whose call does nothing yet.
            WouldWait: The permit would come later than that; `eta` says when. A Celery task
                turns it into `retry(countdown=exc.eta)` and frees its slot meanwhile.

        Switches: may.
        """
        refuse_deferred(fn, "call")
        permit = self.permit(timeout=max_wait, priority="normal", **_evaluated(costs, args, {}))
        try:
            permit.__enter__()
        except LimitTimeout as error:
            self._terms.tally.timed_out -= 1  # an answer here, not a failure
            self._terms.tally.refused += 1
            msg = f"limit {self.name!r} would let this through in {error.retry_after:.3g} s; come back then"
            raise WouldWait(msg, eta=error.retry_after) from None
        try:
            result = fn(*args)
        except BaseException as error:
            permit._end(error)
            raise
        permit._end(None)
        if inspect.iscoroutine(result):  # of a lambda, say, which cannot be seen before
            result.close()
            raise _deferred(fn, "coroutine", "call")
        return result

    def attempts(
        self,
        *,
        deadline: float,
        retry_on: Callable[[BaseException], bool] | None = None,
        most: int | None = None,
        timeout: float | None = None,
        **costs: float,
    ) -> Attempts:
        """Return attempts to iterate over, each of which takes and pays its own permit.

        The loop ends when a block succeeds. A failure that is worth another attempt is kept
        quiet and followed by a pause with full jitter; the last one, or one for which no time is
        left, is raised. All attempts but the first go before calls that are not tried again.

        Args:
            deadline: Seconds for all of it, waits included.
            retry_on: Tells which errors are worth another attempt. Default: 408, 409, 425, 429,
                5xx and broken connections, but never an exhausted quota.
            most: Attempts at the most; None for as many as there is time for.
            timeout: Seconds the first permit may be waited for; None for as long as `deadline` says.
            costs: By dimension, for each attempt.

        Raises:
            CostTooHighError: A cost exceeds the burst given, or the amount; no wait can help.
            TypeError: A cost names no dimension.

        Example:
            for attempt in llm.attempts(tokens=900, deadline=120.0):
                with attempt as permit:
                    reply = ask()
                    permit.settle(tokens=reply.usage.total_tokens)
        """
        check_seconds("deadline", deadline)
        if timeout is not None:
            check_seconds("timeout", timeout)
        if most is not None and most < 1:
            msg = f"most={most!r} attempts would make none; give at least 1"
            raise ValueError(msg)
        priced = self._terms.price(costs) if costs else self._terms.free
        retries = self._terms.retries
        return Attempts(self, deadline, retry_on, retries, priced, most=most, timeout=timeout)

    def limited(
        self, *, timeout: float | None = None, priority: str = "normal", **costs: Cost
    ) -> Callable[[Callable[P, T]], Callable[P, T]]:
        """Return a decorator that runs each call of a function under a permit.

        Args:
            timeout: Seconds a call may wait for it.
            priority: As in `permit()`.
            costs: By dimension: a number, or a function of the call's arguments.

        Raises:
            TypeError: Of the decorator: a call of the function only makes a generator or a coroutine, which
                would run after its permit had ended.
        """
        lane_of(priority)  # a typing mistake shows where it is, not at the first call

        def decorate(fn: Callable[P, T]) -> Callable[P, T]:
            refuse_deferred(fn, "limited")

            @wraps(fn)
            def run(*args: P.args, **kwargs: P.kwargs) -> T:
                with self.permit(timeout=timeout, priority=priority, **_evaluated(costs, args, kwargs)):
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

    def resume(self) -> None:
        """End the pause in force, whatever began it.

        Switches: never.
        """
        self._budget.resume()

    def observe(self, status: int, headers: Mapping[str, str], *, body: object = None) -> None:
        """Learn from a server's answer: a 429 pauses everybody, and slows down for a while.

        The pause is as long as the answer says (`Retry-After` and its kin, a delay in the body, the reset
        of a limit with nothing left), at most 120 s; 1 s when it does not say. A 529 does the same, and a
        503 pauses when it says for how long. An exhausted quota, or a call that can never pass, pauses
        nobody: the body tells. With `feedback=` the limits in the headers are learnt too. A 429 that leaves a
        permit's block as an error is learnt from already.

        Args:
            status: Of the answer.
            headers: Of the answer, names in any case.
            body: Of an answer that is an error: bytes, text, or what its JSON holds.

        Switches: never.
        """
        self._learn(plain_headers(headers))
        self._heed(read_answer(status, headers, body=body))

    def eta(self, **costs: float) -> float:
        """Return the seconds until these costs would be granted, behind all who wait now.

        An estimate: costs given back meanwhile shorten it, pauses and debts lengthen it.

        Switches: never.
        """
        eta: float = self._budget.eta(self._terms.price(costs))
        return eta

    def statistics(self) -> LimiterStatistics:
        """Return a frozen account of this instant.

        Switches: never.
        """
        budget, tally = self._budget.view(), self._terms.tally
        state = budget.state
        granted = state.granted
        permits = max(granted, tally.waits.count)
        rules, left = self._terms.rules.rules, budget.available()
        available: dict[str, float] = {}
        for rule in rules:
            available[rule.dimension] = min(left[rule.name], available.get(rule.dimension, math.inf))
        return LimiterStatistics(
            granted=granted,
            refused=tally.refused,
            timed_out=tally.timed_out,
            rejected=tally.rejected,
            shadowed=tally.shadowed,
            waiting=budget.queue.waiting,
            in_use=state.held,
            concurrency=state.size,
            wait_p50=tally.waits.quantile(0.50, of=permits),
            wait_p95=tally.waits.quantile(0.95, of=permits),
            wait_max=tally.waits.longest,
            paused_for=state.paused_for(self._terms.clock.now()),
            pace=state.factor,
            available=available,
            keys=0,
            backend=state.mode,
            windows={f"{rule.dimension} {rule.rate}": left[rule.name] for rule in rules},
        )

    # -- for permits ---------------------------------------------------------------------------------

    def _wait(self, permit: Permit) -> None:
        """Stand in the queue for `permit`, which is not to be had at once."""
        costs, timeout = permit._costs, permit._timeout
        if self._terms.shadow:
            self._let_through(permit, self._budget.eta(costs))
            return
        start = self._terms.clock.now()
        until = math.inf if timeout is None else start + timeout
        try:
            self._budget.take(costs, lane=permit._lane, until=until)
        except LimitTimeout:
            self._terms.tally.timed_out += 1
            raise
        permit._state = HELD
        permit.waited = self._terms.clock.now() - start
        self._terms.tally.waits.add(permit.waited)

    def _let_through(self, permit: Permit, wait: float) -> None:
        permit._state = LET_THROUGH
        self._terms.tally.shadowed += 1
        self._terms.tally.waits.add(wait)

    def _teach(self, before: Amounts, costs: Mapping[str, float]) -> None:
        for name, charged_cost in self._terms.rules.by_dimension(before).items():
            cost = getattr(charged_cost, "origin", charged_cost)
            if isinstance(cost, Guess) and name in costs:
                cost.teach(costs[name])

    def _failed(self, error: BaseException, answer: Answer, ending: Ending, *, alone: bool = False) -> None:
        """Learn from the error a permit's block ended with.

        Args:
            error: What it ended with.
            answer: What it says.
            ending: What it cost.
            alone: Only this call is refused, again and again: the others need not wait for it.
        """
        if answer.headers and (ending is Ending.REJECTED or answer.later):
            self._learn(answer.headers)
        if alone and answer.limited:
            self._terms.tally.rejected += 1
        else:
            self._heed(answer)
        if self._terms.counts_slots and too_busy(error, answer):
            self._budget.heard(error=True)

    def _heed(self, answer: Answer) -> None:
        if answer.limited or (answer.status == _OVERLOADED and answer.heals):
            self._slow_down(answer.retry_after)
        elif answer.later and not self._terms.shadow:
            assert answer.retry_after is not None
            self._budget.pause(min(answer.retry_after, LONGEST_PAUSE), asked=True)

    def _slow_down(self, asked: float | None) -> None:
        pause = _DEFAULT_PAUSE if asked is None else min(asked, LONGEST_PAUSE)
        self._terms.tally.rejected += 1
        if not self._terms.shadow:
            self._budget.slow_down(pause)
        if facts.listening():
            facts.emit(facts.ServerSaidSlowDown(self.name, pause))

    def _learn(self, headers: Mapping[str, Any]) -> None:
        quotas = self._terms.read(headers)
        if not quotas or self._terms.shadow:
            return
        left, shares = {}, {}
        for quota, rule in meant(quotas, self._terms.rules):
            if quota.remaining is not None:
                left[rule.name] = quota.remaining
            share = quota.share_of(rule.rate)
            if share is not None:
                shares[rule.name] = share
        if left or shares:
            self._budget.learn(left, shares)

    def _refuse(self, wait: float, costs: Amounts) -> Refusal:
        terms = self._terms
        terms.tally.refused += 1
        if facts.listening():
            facts.emit(facts.PermitRefused(self.name, wait))
        return Refusal(self.name, wait, self._in_the_way(costs))

    def _in_the_way(self, costs: Amounts) -> str:
        """Return the window that is used up, as people wrote it; empty when the rate is not in the way."""
        terms = self._terms
        # Where only one can be, a key needs no budget made to look at.
        if len(terms.rules.rules) == 1 and not terms.counts_slots:
            return f"{terms.rules.rules[0].dimension} {terms.rules.rules[0].rate}"
        window: str = self._budget.view().state.in_the_way(costs, terms.clock.now())
        return window


def check_seconds(name: str, seconds: float) -> None:
    """Refuse what is no number of seconds."""
    if not isinstance(seconds, int | float) or isinstance(seconds, bool):
        msg = f"{name} is a number of seconds, not {seconds!r}"
        raise TypeError(msg)
    if math.isnan(seconds):
        msg = f"{name} is a number of seconds, not NaN: a wait that long is never over, nor ever too long"
        raise ValueError(msg)


def refuse_deferred(fn: Callable[..., Any], by: str) -> None:
    """Refuse a function whose call does nothing yet; `by` is what was asked to run it."""
    for test, kind in (
        (inspect.isgeneratorfunction, "generator"),
        (inspect.iscoroutinefunction, "coroutine"),
        (inspect.isasyncgenfunction, "asynchronous generator"),
    ):
        if test(fn):
            raise _deferred(fn, kind, by)


def _deferred(fn: Callable[..., Any], kind: str, by: str) -> TypeError:
    name = getattr(fn, "__qualname__", repr(fn))
    return TypeError(
        f"{by}() cannot hold a permit for the {kind} function {name}(): its code runs after "
        "the call has returned. Take `with limiter.permit():` inside it, around what is to be limited"
    )


def _evaluated(costs: Mapping[str, Cost], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, float]:
    return {name: cost(*args, **kwargs) if callable(cost) else cost for name, cost in costs.items()}
