"""What a limiter and all its keys have in common: the limits, how they are read, and the counts."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

from greenkit.errors import CostTooHighError
from greenkit.limits._statistics import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from greenkit._clock import Clock
    from greenkit.limits._attempts import RetryBudget
    from greenkit.limits._gcra import Amounts, Rules
    from greenkit.limits._quota_headers import Reader

    Price = Callable[[Mapping[str, float]], Amounts]

__all__ = ["Terms"]

# The dimensions of nearly every limiter of an LLM.
_PAIR = ("requests", "tokens")


class Terms:
    """Be what every door of one limiter looks up.

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
