"""The common case written out: one or two dimensions, nobody waiting, no slots, no pause, full pace.

Everything here is said once more, and in general, in `_rules` and `_budget`; a property test holds the
two together. It is here because it runs on every permit: three calls, two loops and a lock would cost as
much as all the rest.

Without the lock, by compare and swap: the state is read, the next one made at leisure, and the last `if`
writes it only if the state is still the one that was read and the budget is not `shut`. Between that look and
that write there is no call and no jump backwards, and only there does CPython let another thread or a
signal handler in (`CHECK_EVAL_BREAKER` in Python/ceval.c and bytecodes.c, 3.10 to 3.14). Who holds the
lock shuts the budget before it reads the state. Other interpreters get the lock.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from greenkit.limits._rules import ROUNDING

if TYPE_CHECKING:
    from collections.abc import Callable

    from greenkit.limits._budget import Budget
    from greenkit.limits._rules import Amounts, Rules

    SettleTokens = Callable[[Amounts, float], Amounts]
    Take = Callable[[Amounts], float]

__all__ = ["PAIR", "fast_settle", "fast_take"]

# The dimensions of nearly every limiter of an LLM.
PAIR = ("requests", "tokens")

# Conditional expressions for max(): a call would cost as much as the rest of the arithmetic.
# A cost of 0 passes whatever the debt of its dimension, and is looked at only when refused.


def fast_take(budget: Budget, rules: Rules) -> Take:
    """Return `budget.take_nowait` for `rules`.

    Switches: never.
    """
    makers = {1: _take_one, 2: _take_two}
    if len(rules.rules) not in makers or rules.calendars or not _one_thread_at_a_time():
        return budget.take_nowait
    return makers[len(rules.rules)](budget, rules)


def _one_thread_at_a_time() -> bool:
    gil = getattr(sys, "_is_gil_enabled", None)
    return sys.implementation.name == "cpython" and (gil is None or gil())


def _take_one(budget: Budget, rules: Rules) -> Take:
    (rule,) = rules.rules
    interval, reach = rule.interval, rule.burst * rule.interval + ROUNDING
    clock, store = budget.now, budget.store

    def take(costs: Amounts) -> float:
        before = store.tats
        now = clock()
        (tat,) = before
        (cost,) = costs
        tat = (tat if tat > now else now) + cost * interval  # noqa: FURB136
        if tat <= now + reach or not cost:
            after = (tat,)
            if store.tats is before and not budget.shut:
                store.tats = after
                store.granted += 1
                return 0.0
        return budget.take_nowait(costs)

    return take


def _take_two(budget: Budget, rules: Rules) -> Take:
    one, two = rules.rules
    interval_a, reach_a = one.interval, one.burst * one.interval + ROUNDING
    interval_b, reach_b = two.interval, two.burst * two.interval + ROUNDING
    clock, store = budget.now, budget.store

    def take(costs: Amounts) -> float:
        before = store.tats
        now = clock()
        a, b = before
        cost_a, cost_b = costs
        a = (a if a > now else now) + cost_a * interval_a  # noqa: FURB136
        b = (b if b > now else now) + cost_b * interval_b  # noqa: FURB136
        if (a <= now + reach_a or not cost_a) and (b <= now + reach_b or not cost_b):
            after = (a, b)
            if store.tats is before and not budget.shut:
                store.tats = after
                store.granted += 1
                return 0.0
        return budget.take_nowait(costs)

    return take


def fast_settle(budget: Budget, rules: Rules) -> SettleTokens:
    """Return what corrects the tokens of a cost, as `budget.settle` does.

    Switches: never.
    """
    if rules.names != PAIR or not _one_thread_at_a_time():
        return lambda costs, tokens: budget.settle(costs, {"tokens": tokens})
    interval, store = rules.rules[1].interval, budget.store

    def settle(costs: Amounts, tokens: float) -> Amounts:
        requests, reserved = costs
        units = tokens - reserved
        # A refund, which needs no clock. Nobody waits who could be due earlier by it.
        if units <= 0 <= tokens:
            before = store.tats
            a, b = before
            after = (a, b + units * interval)
            if store.tats is before and not budget.shut:
                store.tats = after
                return (requests, tokens)
        return budget.settle(costs, {"tokens": tokens})

    return settle
