"""The common case written out: one or two dimensions, nobody waiting, no slots, full pace.

Everything here is said once more, and in general, in `_rules` and `_budget`; a property test holds the
two together. It is here because it runs on every permit: three calls, two loops and a `with` on the
lock would cost as much as all the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from greenkit.limits._rules import ROUNDING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from greenkit.limits._budget import Budget
    from greenkit.limits._rules import Amounts, Rules

    Price = Callable[[Mapping[str, float]], Amounts]
    Settle = Callable[[Amounts, Mapping[str, float]], Amounts]
    Take = Callable[[Amounts], float]

__all__ = ["fast_price", "fast_settle", "fast_take"]

# Conditional expressions for max(): a call would cost as much as the rest of the arithmetic.
# A cost of 0 passes whatever the debt of its dimension, and is looked at only when refused.


def fast_take(budget: Budget, rules: Rules) -> Take:
    """Return `budget.take_nowait` for `rules`.

    Switches: never.
    """
    if len(rules.rules) == 1:
        return _take_one(budget, rules)
    if len(rules.rules) == 2:
        return _take_two(budget, rules)
    return budget.take_nowait


def _take_one(budget: Budget, rules: Rules) -> Take:
    (rule,) = rules.rules
    interval, reach = rule.interval, rule.burst * rule.interval + ROUNDING
    acquire, release, clock, store = budget.lock.acquire, budget.lock.release, budget.now, budget.store

    def take(costs: Amounts) -> float:
        acquire()
        try:
            if not budget.shut:
                now = clock()
                (tat,) = store.tats
                (cost,) = costs
                tat = (tat if tat > now else now) + cost * interval  # noqa: FURB136
                if tat <= now + reach or not cost:
                    store.tats = (tat,)
                    store.granted += 1
                    return 0.0
            return budget.take_nowait(costs)
        finally:
            release()

    return take


def _take_two(budget: Budget, rules: Rules) -> Take:
    one, two = rules.rules
    interval_a, reach_a = one.interval, one.burst * one.interval + ROUNDING
    interval_b, reach_b = two.interval, two.burst * two.interval + ROUNDING
    acquire, release, clock, store = budget.lock.acquire, budget.lock.release, budget.now, budget.store

    def take(costs: Amounts) -> float:
        acquire()
        try:
            if not budget.shut:
                now = clock()
                a, b = store.tats
                cost_a, cost_b = costs
                a = (a if a > now else now) + cost_a * interval_a  # noqa: FURB136
                b = (b if b > now else now) + cost_b * interval_b  # noqa: FURB136
                if (a <= now + reach_a or not cost_a) and (b <= now + reach_b or not cost_b):
                    store.tats = (a, b)
                    store.granted += 1
                    return 0.0
            return budget.take_nowait(costs)
        finally:
            release()

    return take


def fast_price(rules: Rules) -> Price:
    """Return `rules.price`.

    Switches: never.
    """
    if len(rules.rules) != 2:
        return rules.price
    name, burst = rules.rules[1].name, rules.rules[1].burst
    free = rules.price({})[0]

    def price(costs: Mapping[str, float]) -> Amounts:
        if len(costs) == 1 and name in costs:
            cost = costs[name]
            if 0 <= cost <= burst:
                return (free, cost)
        return rules.price(costs)

    return price


def fast_settle(budget: Budget, rules: Rules) -> Settle:
    """Return `budget.settle` for `rules`.

    Switches: never.
    """
    if len(rules.rules) not in {1, 2}:
        return budget.settle
    name, interval = rules.rules[-1].name, rules.rules[-1].interval
    lock, store = budget.lock, budget.store
    acquire, release = lock.acquire, lock.release

    def settle(before: Amounts, costs: Mapping[str, float]) -> Amounts:
        acquire()
        try:
            if not budget.shut and len(costs) == 1 and name in costs:
                cost = costs[name]
                units = cost - before[-1]
                # A refund, which needs no clock. Nobody waits who could be due earlier by it.
                if units <= 0 <= cost:
                    tats = store.tats
                    last = tats[-1] + units * interval
                    if len(tats) == 1:
                        store.tats = (last,)
                        return (cost,)
                    store.tats = (tats[0], last)
                    return (before[0], cost)
            return budget.settle(before, costs)
        finally:
            release()

    return settle
