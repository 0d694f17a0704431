"""The arithmetic of limits: GCRA over one float per dimension, without clock, lock or wait.

The float is the theoretical arrival time (TAT): the instant at which the dimension's budget will
be full again. A budget that is full needs no state at all. Costs and states are tuples in the
order of the rules; the limiter owns the one state and the lock around it.

Source: ITU-T I.371 (GCRA, virtual scheduling form).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TYPE_CHECKING

from greenkit._clock import MONOTONIC
from greenkit.errors import ConfigError, CostTooHighError
from greenkit.limits._rates import Charge, Rate, Window, shown, step_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from greenkit._clock import Clock
    from greenkit.limits._rates import Rate

    Amounts = tuple[float, ...]

__all__ = [
    "JITTER_CREDIT",
    "PROBE_TIME",
    "ROUNDING",
    "CalendarRules",
    "HalfOpen",
    "Rule",
    "Rules",
    "rules_of",
]

# A timer fires a quarter of a millisecond late, and a TAT restarted from `now` loses that for
# ever: 7 % of 200/s at burst 1. Those who waited may therefore count from up to this long ago.
JITTER_CREDIT = 0.010
# Instants differ from their own sums by rounding; a caller who slept exactly `retry_after` must
# pass, or it sleeps 1e-17 s for ever.
ROUNDING = 1e-9
# A debt that takes longer to pay than this is a mistake, such as bytes, a timestamp or a sum over all calls.
_YEAR = 365.0 * 86_400
_LONGEST_DEBT = 10 * _YEAR
# Of a strict rule's amount, when nobody said: the rest comes evenly afterwards.
_STRICT_BURST = 0.05


@dataclass(frozen=True, slots=True)
class Rule:
    """Hold one dimension to a rate.

    In any window of W seconds at most `burst + (W + JITTER_CREDIT) / interval` units are granted (a single
    cost above the burst stands in its place), counting what is given back as negative when it is given back.
    A strict rule stretches its interval so that this is at most `rate.amount` for a window of `rate.period`.

    Args:
        name: The dimension, such as "tokens"; of its further windows with "@" and the window after it.
        rate: How much in how long.
        strict: Never more than `rate.amount` in any window of `rate.period`, idle before or not.
        clock: Where time comes from; only windows by the calendar look at it.

    Attributes:
        window: Tells the window of now, where windows begin by the calendar.
        dimension: What costs are given in; a dimension may have several windows, each with a rule.
        interval: Seconds one unit takes to come back.
        burst: Units that may go at once.
        largest: The highest cost there can be; one above the burst goes when the budget is full.

    Raises:
        ConfigError: Strict, and the burst leaves nothing of the amount for afterwards.
    """

    name: str
    rate: Rate
    strict: bool = False
    clock: Clock = field(default=MONOTONIC, compare=False, repr=False)
    window: Window | None = field(init=False, compare=False, repr=False)
    dimension: str = field(init=False)
    interval: float = field(init=False)
    burst: float = field(init=False)
    largest: float = field(init=False)

    def __post_init__(self) -> None:
        rate = self.rate
        interval, burst, largest = rate.period / rate.amount, float(rate.burst), float(rate.largest)
        calendar = rate.calendar
        object.__setattr__(self, "window", None if calendar is None else Window(calendar, self.clock))
        if calendar is not None:
            interval = step_of(calendar, rate.amount)
        elif self.strict:
            # No server that counts by the second is meant here, and no single cost may go beyond the burst.
            burst = largest = burst if rate.said else max(1.0, _STRICT_BURST * rate.amount)
            rest = rate.amount - burst
            if rest <= 0:
                msg = (
                    f"strict {self.name.partition('@')[0]}: a burst of {burst:g} is all of {rate.amount:g}, "
                    "so nothing could ever follow it; give a smaller burst, or a larger amount for a longer "
                    "period"
                )
                raise ConfigError(msg)
            interval = (rate.period + JITTER_CREDIT) / rest
        object.__setattr__(self, "interval", interval)
        object.__setattr__(self, "dimension", self.name.partition("@")[0])
        object.__setattr__(self, "burst", burst)
        object.__setattr__(self, "largest", largest)

    def paced(self, factor: float) -> Rule:
        """Return this rule at `factor` times its rate; its burst stays, unless it is all there is."""
        rule = replace(self)
        if self.window is not None:
            object.__setattr__(rule, "burst", self.burst * factor)
            return rule
        object.__setattr__(rule, "interval", self.interval / factor)
        return rule

    def times(self, weight: float) -> Rule:
        """Return this rule with `weight` times the amount, and its burst; of one that was given a unit stays.

        Raises:
            ConfigError: As for the rule.
        """
        rate = self.rate
        burst = max(rate.burst * weight, min(rate.burst, 1.0)) if rate.said else math.nan
        return replace(self, rate=replace(rate, amount=rate.amount * weight, burst=burst))

    def available(self, tat: float, now: float) -> float:
        """Return how many units could go now; negative while in debt."""
        if self.window is not None:
            used, start, _ = self.window.of(tat)
            return self.burst - (used - start) / self.interval
        return self.burst - max(0.0, tat - now) / self.interval


class Rules:
    """Decide over several dimensions at once: all of a cost goes, or none of it.

    Of windows by the calendar `CalendarRules` knows.

    Args:
        rules: One per window of each dimension, in the order states and costs are given in.

    Attributes:
        names: Their names.
        dimensions: What costs are given in, each once.
        rules: As given.
    """

    calendars = False  # whether windows by the calendar are among them
    __slots__ = (
        "_bursts",
        "_free",
        "_intervals",
        "_largest",
        "_places",
        "_reaches",
        "dimensions",
        "names",
        "rules",
    )

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = tuple(rules)
        self.names = tuple(rule.name for rule in self.rules)
        self._free = tuple(1.0 if rule.dimension == "requests" else 0.0 for rule in self.rules)
        self._bursts = tuple(rule.burst for rule in self.rules)
        self._largest = tuple(rule.largest for rule in self.rules)
        self._intervals = tuple(rule.interval for rule in self.rules)
        self._reaches = tuple(rule.burst * rule.interval for rule in self.rules)
        self._places: dict[str, list[int]] = {}
        for place, rule in enumerate(self.rules):
            self._places.setdefault(rule.dimension, []).append(place)
        self.dimensions = tuple(self._places)

    def times(self, weight: float) -> Rules:
        """Return these rules with `weight` times the amounts."""
        return self if weight == 1.0 else self.like([rule.times(weight) for rule in self.rules])

    def like(self, rules: Sequence[Rule]) -> Rules:
        """Return rules of the same kind."""
        return type(self)(rules)

    def start(self) -> Amounts:
        """Return the state of full budgets."""
        return (-math.inf,) * len(self.rules)

    def price(self, costs: Mapping[str, float]) -> Amounts:
        """Return `costs`, by dimension, in the order of the rules; `requests` is 1 when not given, others 0.

        Raises:
            TypeError: A name is no dimension here.
            ValueError: A cost is negative or not a number.
            CostTooHighError: A cost exceeds the largest there can be; no wait can help.
        """
        priced = list(self._free)
        for name, cost in costs.items():
            for place in self._places_of(name, cost):
                if cost > self._largest[place]:
                    raise _too_high(self.rules[place], cost)
                priced[place] = cost
        return tuple(priced)

    def in_order(self, costs: Mapping[str, float]) -> Amounts:
        """Return costs of every dimension, by its name, in the order of the rules."""
        return tuple([costs[rule.dimension] for rule in self.rules])

    def by_dimension(self, amounts: Amounts) -> dict[str, float]:
        """Return costs in the order of the rules by the names of their dimensions."""
        return {name: amounts[places[0]] for name, places in self._places.items()}

    def decide(self, tats: Amounts, costs: Amounts, now: float, *, credit: float) -> Amounts | None:
        """Return the next state when `costs` may go at `now`, or None.

        Refused, the state stays as it is, and `earliest()` says from when the same costs pass.

        Args:
            tats: The state.
            costs: In the order of the rules. A cost of 0 passes whatever the debt of its dimension.
            now: Clock reading.
            credit: Seconds ago a cost may be counted from.
        """
        floor = now - credit
        latest = now + ROUNDING
        granted = []
        # By place, and without max(): this runs on every grant, and zip() and the calls are half of it.
        for place, cost in enumerate(costs):
            tat = tats[place]
            after = (tat if tat > floor else floor) + cost * self._intervals[place]  # noqa: FURB136
            # A cost above the burst goes when the budget is full: it cannot be divided.
            if (
                after > latest + self._reaches[place]
                and cost
                and (cost <= self._bursts[place] or tat > latest)
            ):
                return None
            granted.append(after)
        return tuple(granted)

    def too_high(self, costs: Amounts) -> CostTooHighError | None:
        """Return the error for costs that are larger than any may be, or None."""
        for rule, cost in zip(self.rules, costs, strict=True):
            if cost > rule.largest:
                return _too_high(rule, cost)
        return None

    def settle(
        self, tats: Amounts, before: Amounts, costs: Mapping[str, float], now: float
    ) -> tuple[Amounts, Amounts]:
        """Correct what `before` cost to `costs`; dimensions not named keep their cost.

        What is given back never lifts a budget above its burst. A debt may exceed the burst:
        those who come next wait for it.

        Returns:
            (next tats, costs after).

        Raises:
            TypeError: A name is no dimension here.
            ValueError: A cost is negative, infinite, NaN, or would take ten years to pay.
        """
        instants, after = list(tats), list(before)
        for name, cost in costs.items():
            for place in self._places_of(name, cost):
                units = cost - after[place]
                if units * self._intervals[place] > _LONGEST_DEBT:
                    raise _absurd(self.rules[place], cost, units)
                if units > 0 and instants[place] < now:
                    instants[place] = now
                instants[place] += units * self._intervals[place]
                after[place] = cost
        return tuple(instants), tuple(after)

    def taken_over(self, tats: Amounts, old: Rules, now: float) -> Amounts:
        """Return the state under these rules of budgets kept under `old`: as many units are out."""
        return tuple(
            [
                now + (tat - now) * new.interval / was.interval if tat > now and new.name == was.name else tat
                for tat, new, was in zip(tats, self.rules, old.rules, strict=True)
            ]
        )

    def blocking(self, tats: Amounts, costs: Amounts, now: float) -> Rule | None:
        """Return the rule that lets `costs` go last, or None when all of them let them go now."""
        latest, found = now + ROUNDING, None
        for place, rule in enumerate(self.rules):
            alone = [0.0] * len(costs)
            alone[place] = costs[place]
            instant = self.earliest(tats, tuple(alone))
            if instant > latest:
                latest, found = instant, rule
        return found

    def limited_to(self, tats: Amounts, available: Mapping[str, float], now: float) -> Amounts:
        """Return the state in which no more than `available` can go now; names not known are ignored.

        Args:
            tats: The state.
            available: By the names of the rules.
            now: Clock reading.
        """
        instants = list(tats)
        for place, rule in enumerate(self.rules):
            if rule.name in available:
                left = max(0.0, available[rule.name])
                instants[place] = max(tats[place], now + (rule.burst - left) * rule.interval)
        return tuple(instants)

    def earliest(self, tats: Amounts, costs: Amounts) -> float:
        """Return the instant from which all of `costs` may go.

        Args:
            tats: The state.
            costs: In the order of the rules, of one permit. One above its burst goes when the budget is full.
        """
        # Compare instants, never sum them back: (now + b*T) - b*T - now can come out 5e-17, and a
        # caller who sleeps that long spins for ever.
        earliest = -math.inf
        for place, cost in enumerate(costs):
            if cost:
                rest = self._bursts[place] - cost
                instant = tats[place] - rest * self._intervals[place] if rest > 0 else tats[place]
                earliest = max(earliest, instant)
        return earliest

    def idle(self, tats: Amounts, now: float) -> bool:
        """Tell whether all budgets are full, so that nothing is to be remembered."""
        return max(tats, default=now) <= now

    def behind(self, tats: Amounts, ahead: Amounts, start: float) -> Amounts:
        """Return the state once the costs `ahead` have gone from it, none of them before `start`."""
        return tuple(
            [max(tat, start) + ahead[place] * self._intervals[place] for place, tat in enumerate(tats)]
        )

    def _places_of(self, name: str, cost: float) -> list[int]:
        """Return where the windows of a dimension stand, for a cost that is one."""
        places = self._places.get(name)
        if places is None:
            msg = f"no dimension named {name!r}; this limiter has {', '.join(self.dimensions) or 'none'}"
            raise TypeError(msg)
        check_cost(name, cost)
        return places


def check_cost(name: str, cost: float) -> None:
    """Refuse what is no cost.

    Raises:
        TypeError: It is no number.
        ValueError: It is negative, infinite or NaN.
    """
    if not isinstance(cost, int | float) or isinstance(cost, bool):
        msg = f"{name} costs a number of units, not {cost!r}"
        raise TypeError(msg)
    if not 0 <= cost < math.inf:
        msg = f"{name} must cost 0 or more, and end somewhere, not {cost!r}"
        raise ValueError(msg)


def _absurd(rule: Rule, cost: float, units: float) -> ValueError:
    years = units * rule.interval / _YEAR
    return ValueError(
        f"{rule.dimension}={cost:g} would let nobody through for {years:.3g} years at {rule.rate}, so "
        f"nothing was charged; settle() takes what this one call cost, in units of {rule.dimension}"
    )


def _too_high(rule: Rule, cost: float) -> CostTooHighError:
    rate, name = rule.rate, rule.dimension
    if rate.said:
        limit = f"the burst of {shown(rule.burst)} that was given to {rate}"
    elif rule.strict:
        limit = f"the burst of {shown(rule.burst)} that strict {rate} has when none is given"
    else:
        limit = f"all of {rate}"
    return CostTooHighError(
        f"{name}={shown(cost)} exceeds {limit}, so it could never be granted; ask for less, or end the "
        f'limit of {name} with "burst {math.ceil(cost)}"'
    )


def rules_of(rates: Mapping[str, Sequence[Rate]], *, strict: bool, clock: Clock = MONOTONIC) -> Rules:
    """Return the rules for the windows of all dimensions.

    The shortest window has the name of its dimension, so that in a shared record a release with one window
    and one with several have that in common. The others are named by their period, too.

    Raises:
        ConfigError: Strict leaves nothing of a limit, or nothing could ever pass.
    """
    rules = []
    for name, several in rates.items():
        plain = next((rate for rate in several if rate.calendar is None), None)
        for rate in several:
            window = f"{rate.calendar.unit} {rate.calendar}" if rate.calendar else f"{rate.period:g}"
            rule = Rule(name if rate is plain else f"{name}@{window}", rate, strict, clock)
            if name == "requests" and rule.largest < 1:
                msg = f"requests {rate} has a burst of {rule.burst:g}, and each request costs 1: never"
                raise ConfigError(msg)
            rules.append(rule)
    by_calendar = any(rule.window is not None for rule in rules)
    return CalendarRules(rules) if by_calendar else Rules(rules)


# Of an amount: fractions of units come out a little more than they are.
_OF_AMOUNT = 1e-9


class CalendarRules(Rules):
    """Decide as `Rules` does, over windows by the calendar as well.

    Args:
        rules: One per window of each dimension, in the order states and costs are given in.
    """

    __slots__ = ("_tops", "_windows")

    calendars = True

    def __init__(self, rules: Sequence[Rule]) -> None:
        super().__init__(rules)
        self._windows = [rule.window for rule in self.rules]
        self._tops = [rule.burst * rule.interval * (1 + _OF_AMOUNT) for rule in self.rules]

    def decide(self, tats: Amounts, costs: Amounts, now: float, *, credit: float) -> Amounts | None:
        """As `Rules.decide()`; all of a window's amount may go whenever in it."""
        floor, latest = now - credit, now + ROUNDING
        granted = []
        for place, cost in enumerate(costs):
            tat, window = tats[place], self._windows[place]
            if window is None:
                after = max(tat, floor) + cost * self._intervals[place]
                late = after > latest + self._reaches[place] and (cost <= self._bursts[place] or tat > latest)
            else:
                used, start, _ = window.of(tat)
                after = used + cost * self._intervals[place]
                late = after > start + self._tops[place]
            if late and cost:
                return None
            granted.append(after)
        return tuple(granted)

    def earliest(self, tats: Amounts, costs: Amounts) -> float:
        """As `Rules.earliest()`; what is used up is there again when the next window begins."""
        earliest = -math.inf
        for place, cost in enumerate(costs):
            window = self._windows[place]
            if not cost:
                continue
            if window is None:
                rest = self._bursts[place] - cost
                instant = tats[place] - max(0.0, rest) * self._intervals[place]
            else:
                used, start, end = window.of(tats[place])
                over = used + cost * self._intervals[place] > start + self._tops[place]
                instant = window.instant(end) if over else -math.inf
            earliest = max(earliest, instant)
        return earliest

    def settle(
        self, tats: Amounts, before: Amounts, costs: Mapping[str, float], now: float
    ) -> tuple[Amounts, Amounts]:
        """As `Rules.settle()`; what was charged in a window that is over is not given back in this one."""
        instants, after = super().settle(tats, before, costs, now)
        settled, costs_now = list(instants), list(after)
        for place, window in enumerate(self._windows):
            if window is None:
                continue
            units, charged = after[place] - before[place], before[place]
            used, start, end = window.of(tats[place])
            if isinstance(charged, Charge):
                costs_now[place] = Charge(after[place], charged.at)
                if units < 0 and charged.at < start:
                    costs_now[place], units = charged, 0.0
            settled[place] = _within(start, used + units * self._intervals[place], end)
        return tuple(settled), tuple(costs_now)

    def taken_over(self, tats: Amounts, old: Rules, now: float) -> Amounts:
        """As `Rules.taken_over()`: as many units are used of the window."""
        instants = list(super().taken_over(tats, old, now))
        for place, window in enumerate(self._windows):
            was = old.rules[place]
            if window is None:
                if was.window is not None:
                    instants[place] = -math.inf
            elif was.name == self.rules[place].name:
                used, start, end = window.of(tats[place])
                instants[place] = _within(
                    start, start + (used - start) / was.interval * self._intervals[place], end
                )
            else:
                instants[place] = -math.inf
        return tuple(instants)

    def limited_to(self, tats: Amounts, available: Mapping[str, float], now: float) -> Amounts:
        """As `Rules.limited_to()`."""
        instants = list(super().limited_to(tats, available, now))
        for place, window in enumerate(self._windows):
            if window is None:
                continue
            used, start, _ = window.of(tats[place])
            left = available.get(self.names[place], math.inf)
            out = max(0.0, self._bursts[place] - max(0.0, left))
            instants[place] = max(used, start + out * self._intervals[place])
        return tuple(instants)

    def idle(self, tats: Amounts, now: float) -> bool:
        """As `Rules.idle()`."""
        return all(
            tat <= now if window is None else window.of(tat)[0] <= window.of(tat)[1]
            for tat, window in zip(tats, self._windows, strict=True)
        )

    def behind(self, tats: Amounts, ahead: Amounts, start: float) -> Amounts:
        """As `Rules.behind()`."""
        instants = list(super().behind(tats, ahead, start))
        for place, window in enumerate(self._windows):
            if window is not None:
                used, start, end = window.of(tats[place])
                instants[place] = _within(start, used + ahead[place] * self._intervals[place], end)
        return tuple(instants)


def _within(start: float, state: float, end: float) -> float:
    """Return the state, or the one next to it that is of this window: however large, a debt ends with it."""
    return max(start, min(state, end - 0.001))


# Seconds the rest wait for the probe's answer. A refusal comes sooner: a call that is under way for longer
# was let in, and one that is lost must not keep everybody out.
PROBE_TIME = 5.0
# A pause that nobody has asked about for so long after its end is over for good.
_FORGET = 60.0
_numbers = count(1)


class HalfOpen:
    """Hold back all but the first permit after a pause.

    Attributes:
        number: Of the pause, unlike any other in this process; 0 while nothing is held back.
        until: Clock reading at which the rest go whatever became of the probe; `inf` before the first one.
        out: A probe is under way.
    """

    __slots__ = ("number", "out", "until")

    def __init__(self) -> None:
        self.open()

    def open(self) -> None:
        """Hold nobody back."""
        self.number, self.until, self.out = 0, math.inf, False

    def begin(self, number: int | None = None) -> None:
        """Let one go first after the pause that begins now; `number` names it, by default a new one."""
        self.number, self.until, self.out = next(_numbers) if number is None else number, math.inf, False

    def blocked(self, now: float) -> float:
        """Return the seconds until the next may go, the answer of the probe aside; 0.0 for now."""
        if not self.number:
            return 0.0
        if now >= self.until:
            self.open()
            return 0.0
        return self.until - now if self.out else 0.0

    def sent(self, now: float) -> None:
        """Count the permit that was just granted as the probe, where one is missing."""
        if self.number:
            self.out = True
            self.until = min(
                self.until, now + PROBE_TIME
            )  # kept when a probe is lost: each would add its own

    def answered(self, number: int, *, passed: bool) -> bool:
        """Open when the probe of pause `number` passed, else send another; tell whether that is news."""
        if not number or number != self.number:
            return False
        if passed:
            self.open()
        else:
            self.out = False
        return True

    def matters(self, now: float, paused_until: float) -> bool:
        """Tell whether it is worth remembering."""
        return bool(self.number) and now < max(paused_until, -_FORGET) + _FORGET
