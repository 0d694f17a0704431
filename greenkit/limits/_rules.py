"""The arithmetic of limits: GCRA over one float per dimension, without clock, lock or wait.

The float is the theoretical arrival time (TAT): the instant at which the dimension's budget will
be full again. A budget that is full needs no state at all. Costs and states are tuples in the
order of the rules; the limiter owns the one state and the lock around it.

Source: ITU-T I.371 (GCRA, virtual scheduling form).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from greenkit.errors import ConfigError, CostTooHighError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from greenkit.limits._parse import Rate

    Amounts = tuple[float, ...]
    Decide = Callable[[Amounts, Amounts, float, float], tuple[Amounts, float]]

__all__ = ["JITTER_CREDIT", "Rule", "Rules"]

# A timer fires a quarter of a millisecond late, and a TAT restarted from `now` loses that for
# ever: 7 % of 200/s at burst 1. Those who waited may therefore count from up to this long ago.
JITTER_CREDIT = 0.010

# Instants differ from their own sums by rounding; a caller who slept exactly `retry_after` must
# pass, or it sleeps 1e-17 s for ever.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Rule:
    """Hold one dimension to a rate.

    In any window of W seconds at most `burst + (W + JITTER_CREDIT) / interval` units are granted,
    counting what is given back as negative when it is given back. A strict rule stretches its
    interval so that this is at most `rate.amount` for a window of `rate.period`.

    Args:
        name: The dimension, such as "tokens".
        rate: How much in how long.
        strict: Never more than `rate.amount` in any window of `rate.period`, idle before or not.

    Attributes:
        interval: Seconds one unit takes to come back.
        burst: Units that may go at once; also the highest cost there can be.

    Raises:
        ConfigError: Strict, and the burst leaves nothing of the amount for afterwards.
    """

    name: str
    rate: Rate
    strict: bool = False
    interval: float = field(init=False)
    burst: float = field(init=False)

    def __post_init__(self) -> None:
        rate = self.rate
        interval = rate.period / rate.amount
        if self.strict:
            rest = rate.amount - rate.burst
            if rest <= 0:
                msg = (
                    f"strict {self.name}: a burst of {rate.burst:g} is all of {rate.amount:g}, so nothing could "
                    "ever follow it; give a smaller burst, or a larger amount for a longer period"
                )
                raise ConfigError(msg)
            interval = (rate.period + JITTER_CREDIT) / rest
        object.__setattr__(self, "interval", interval)
        object.__setattr__(self, "burst", float(rate.burst))

    def earliest(self, tat: float, cost: float) -> float:
        """Return the instant from which `cost` may go.

        Switches: never.
        """
        # Compare instants, never sum them back: (now + b*T) - b*T - now can come out 5e-17, and
        # a caller who sleeps that long spins for ever.
        return tat - (self.burst - cost) * self.interval

    def available(self, tat: float, now: float) -> float:
        """Return how many units could go now; negative while in debt.

        Switches: never.
        """
        return self.burst - max(0.0, tat - now) / self.interval


class Rules:
    """Decide over several dimensions at once: all of a cost goes, or none of it.

    Args:
        rules: One per dimension, in the order states and costs are given in.
    """

    __slots__ = ("_free", "decide", "names", "rules")

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = tuple(rules)
        self.names = tuple(rule.name for rule in self.rules)
        self._free = dict.fromkeys(self.names, 0.0) | ({"requests": 1.0} if "requests" in self.names else {})
        self.decide: Decide = self._unrolled()

    def start(self) -> Amounts:
        """Return the state of full budgets.

        Switches: never.
        """
        return (-math.inf,) * len(self.rules)

    def price(self, costs: Mapping[str, float]) -> Amounts:
        """Return `costs` in the order of the rules; `requests` is 1 when not given, others 0.

        Raises:
            TypeError: A name is no dimension here.
            ValueError: A cost is negative or not a number.
            CostTooHighError: A cost exceeds its burst; no wait can help.

        Switches: never.
        """
        priced = tuple({**self._free, **costs}.values())
        for cost, rule in zip(priced, self.rules, strict=False):
            # Written so that a NaN fails it too.
            if not 0 <= cost <= rule.burst:
                self._refuse(rule, cost)
        if len(priced) != len(self.rules):
            self._refuse_names(costs)
        return priced

    def settled(self, before: Amounts, costs: Mapping[str, float]) -> Amounts:
        """Return `before` with `costs` put in by name; a cost may exceed its burst here.

        Raises:
            TypeError: A name is no dimension here.
            ValueError: A cost is negative or not a number.

        Switches: never.
        """
        after = {**dict(zip(self.names, before, strict=True)), **costs}
        if len(after) != len(before):
            self._refuse_names(costs)
        for name, cost in costs.items():
            if not 0 <= cost < math.inf:
                msg = f"{name} must cost 0 or more, not {cost!r}"
                raise ValueError(msg)
        return tuple(after.values())

    def earliest(self, tats: Amounts, costs: Amounts) -> float:
        """Return the instant from which all of `costs` may go.

        A cost may exceed its burst here: it may stand for several, one after the other.

        Switches: never.
        """
        return max(
            (
                rule.earliest(tat, cost)
                for rule, tat, cost in zip(self.rules, tats, costs, strict=True)
                if cost
            ),
            default=-math.inf,
        )

    def adjust(self, tats: Amounts, units: Amounts, now: float) -> Amounts:
        """Return the state after giving back `units`, or charging them where negative.

        What is given back never lifts a budget above its burst. A debt may exceed the budget:
        those who come next wait for it.

        Switches: never.
        """
        return tuple(
            (tat if unit >= 0 else max(tat, now)) - unit * rule.interval if unit else tat
            for rule, tat, unit in zip(self.rules, tats, units, strict=True)
        )

    def _unrolled(self) -> Decide:
        """Return the function that decides, written out for the common counts of dimensions.

        decide(tats, costs, now, credit) → (next tats, retry_after). Granted: `retry_after` is
        0.0. Refused: the state is unchanged and `retry_after` is the shortest wait after which
        the same cost passes. `credit` is how many seconds ago the cost may be counted from.
        """
        if len(self.rules) == 1:
            return _decide_one(*self.rules)
        if len(self.rules) == 2:
            return _decide_two(*self.rules)
        return _decide_all(self.rules)

    def _refuse(self, rule: Rule, cost: float) -> None:
        if cost > rule.burst:
            msg = (
                f"{rule.name}={cost:g} exceeds the burst of {rule.burst:g}, so it can never be granted; "
                f'ask for less, or write "{rule.rate.amount:g}/… burst {math.ceil(cost)}" where the limit is made'
            )
            raise CostTooHighError(msg)
        msg = f"{rule.name} must cost 0 or more, not {cost!r}"
        raise ValueError(msg)

    def _refuse_names(self, costs: Mapping[str, float]) -> None:
        unknown = ", ".join(sorted(set(costs) - set(self.names)))
        msg = f"no dimension named {unknown}; this limiter has {', '.join(self.names) or 'none'}"
        raise TypeError(msg)


def _decide_one(rule: Rule) -> Decide:
    burst, interval = rule.burst, rule.interval

    def decide(tats: Amounts, costs: Amounts, now: float, credit: float) -> tuple[Amounts, float]:
        (tat,) = tats
        (cost,) = costs
        wait = tat - (burst - cost) * interval - now
        if wait > _ROUNDING and cost:
            return tats, wait
        now -= credit
        return ((max(now, tat)) + cost * interval,), 0.0

    return decide


def _decide_two(first: Rule, second: Rule) -> Decide:
    burst_a, interval_a = first.burst, first.interval
    burst_b, interval_b = second.burst, second.interval

    def decide(tats: Amounts, costs: Amounts, now: float, credit: float) -> tuple[Amounts, float]:
        a, b = tats
        cost_a, cost_b = costs
        wait_a = a - (burst_a - cost_a) * interval_a - now if cost_a else 0.0
        wait_b = b - (burst_b - cost_b) * interval_b - now if cost_b else 0.0
        if wait_a > _ROUNDING or wait_b > _ROUNDING:
            return tats, (max(wait_b, wait_a))
        now -= credit
        return (
            (max(now, a)) + cost_a * interval_a,
            (max(now, b)) + cost_b * interval_b,
        ), 0.0

    return decide


def _decide_all(rules: tuple[Rule, ...]) -> Decide:
    def decide(tats: Amounts, costs: Amounts, now: float, credit: float) -> tuple[Amounts, float]:
        wait = 0.0
        granted = []
        floor = now - credit
        for rule, tat, cost in zip(rules, tats, costs, strict=True):
            if cost:
                wait = max(wait, rule.earliest(tat, cost) - now)
            granted.append((max(floor, tat)) + cost * rule.interval)
        if wait > _ROUNDING:
            return tats, wait
        return tuple(granted), 0.0

    return decide
