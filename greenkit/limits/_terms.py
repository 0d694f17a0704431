"""What a limiter and all its keys have in common: the limits, how they are read, and the counts."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from greenkit.errors import CostTooHighError
from greenkit.limits._queue import Waits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from greenkit._clock import Clock
    from greenkit.limits._feedback import Reader
    from greenkit.limits._gcra import Amounts, Rules
    from greenkit.limits._permit import RetryBudget

    Price = Callable[[Mapping[str, float]], Amounts]

__all__ = ["LimiterStatistics", "Tally", "Terms"]

# The dimensions of nearly every limiter of an LLM.
_PAIR = ("requests", "tokens")


class Terms:
    """Be what every limiter of one limiter looks up.

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
    price: Price
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


def _softly(price: Price) -> Price:
    """Return `price` for a shadow: a cost no wait could help with is let through, and counted as 0."""

    def priced(costs: Mapping[str, float]) -> Amounts:
        try:
            return price(costs)
        except CostTooHighError:
            return price({})

    return priced


@dataclass(frozen=True, slots=True)
class LimiterStatistics:
    """Show a limiter at one instant; counts are since it was made.

    Attributes:
        granted: Permits given, those of its keys included.
        refused: `try_permit()` and `call()` answered "not now".
        timed_out: Waits ended by `LimitTimeout`.
        rejected: Times the server said 429.
        shadowed: Permits a limiter with `shadow=True` let through that it would have held back.
        waiting: Greenlets in line now, for the rate or for a slot.
        in_use: Permits held now; 0 when there is no `concurrency` to count them by.
        concurrency: Permits that may be held at once, or None.
        wait_p50: Half of the permits waited no longer (seconds; permits that did not wait count).
        wait_p95: 95 % of the permits waited no longer.
        wait_max: The longest wait.
        paused_for: Seconds until the pause in force ends; 0.0 when there is none.
        pace: Share of the configured rate used now: less than 1 for a while after 429s.
        available: Units that could go now, by dimension, the least of its windows; negative while in debt.
        keys: Keys remembered: those whose budget is not full, and those in use.
        backend: "local" for a limiter of its own; of a shared one "shared", or what it does while the
            backend is away: "local", "open", "closed".
        windows: Units that could go now, by window, such as `{"requests 500/min": 1.0}`.
    """

    granted: int
    refused: int
    timed_out: int
    rejected: int
    shadowed: int
    waiting: int
    in_use: int
    concurrency: int | None
    wait_p50: float
    wait_p95: float
    wait_max: float
    paused_for: float
    pace: float
    available: dict[str, float]
    keys: int
    backend: str
    windows: dict[str, float]


class Tally:
    """Count what happened to the permits of one limiter and all its keys.

    Attributes:
        waits: How long those that waited did.
        refused: As in `LimiterStatistics`, and so are the others.
    """

    __slots__ = ("refused", "rejected", "shadowed", "timed_out", "waits")

    def __init__(self) -> None:
        self.waits = Waits()
        self.refused = self.timed_out = self.rejected = self.shadowed = 0
