"""How much may go now: limits of several dimensions, waited for in order.

Here live the arithmetic (`_gcra`), the words limits are written in (`_rates`), the limiter and
its permits, retry by attempts, and what servers say back. Waiting itself is `greenkit.wait`'s.
"""

from __future__ import annotations

from greenkit.limits._feedback import Quota
from greenkit.limits._limiter import Limiter
from greenkit.limits._permit import Permit, Refusal
from greenkit.limits._rates import Rate, parse_rate
from greenkit.limits._statistics import Estimate, Guess, LimiterStatistics, Price, Prices

__all__ = [
    "Estimate",
    "Guess",
    "Limiter",
    "LimiterStatistics",
    "Permit",
    "Price",
    "Prices",
    "Quota",
    "Rate",
    "Refusal",
    "parse_rate",
]
