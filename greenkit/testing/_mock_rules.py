"""Decide whether the mock LLM server admits a call: rates, buckets, and a quota of both.

Pure: every decision takes the time as an argument, so the rules are tested without a clock. The
parser is deliberately not the one of `greenkit.limits`: the server is the opponent the limiter is
measured against, and shares none of its code.

The rule, for each dimension (requests, tokens): a bucket holds `burst` permits and refills evenly
at the rate (GCRA, virtual scheduling form, ITU-T I.371). A call is admitted when every bucket has
room for its cost, and then pays all of them; a refused call pays nothing.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

__all__ = ["Bucket", "Quota", "Rate", "Verdict", "parse_rate"]

_UNITS = {
    "s": 1.0,
    "sec": 1.0,
    "second": 1.0,
    "m": 60.0,
    "min": 60.0,
    "minute": 60.0,
    "h": 3600.0,
    "hour": 3600.0,
}
_GRAMMAR = re.compile(r"([\d_]+(?:\.\d+)?)\s*/\s*(\d+(?:\.\d+)?)?\s*([a-z]+)(?:\s+burst\s+([\d_]+))?\Z")


@dataclass(frozen=True, slots=True)
class Rate:
    """Hold how many permits come per second, and how many may be spent at once."""

    per_second: float
    burst: float

    @property
    def per_minute(self) -> float:
        """Return the rate as providers print it in their headers."""
        return self.per_second * 60.0


def parse_rate(text: str) -> Rate:
    """Read a rate such as ``500/min``, ``200/s``, ``30/10s`` or ``90_000/min burst 9_000``.

    Without `burst`, one second's worth may be spent at once, and at least one permit.

    Raises:
        ValueError: The text is not of this shape, or the rate or the burst is zero.

    Switches: never.
    """
    found = _GRAMMAR.match(text.strip().lower())
    unit = _UNITS.get(found[3]) if found else None
    if found is None or unit is None:
        raise ValueError(
            f'a rate looks like "500/min", "200/s" or "90_000/min burst 9_000"; {text!r} does not'
        )
    period = float(found[2] or 1) * unit
    count = float(found[1])
    if count <= 0 or period <= 0:
        raise ValueError(f"a rate must be above zero, {text!r} is not; leave it out for no limit")
    per_second = count / period
    burst = float(found[4]) if found[4] else max(1.0, per_second)
    if burst < 1:
        raise ValueError(f"a burst must be at least 1, in {text!r} it is {burst:g}")
    return Rate(per_second, burst)


class Bucket:
    """Count one dimension of a quota; a full bucket is one float in the past."""

    __slots__ = ("interval", "rate", "tat")

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self.interval = 1.0 / rate.per_second
        self.tat = -math.inf  # theoretical arrival time: when the bucket is full again

    def __repr__(self) -> str:
        """Show the rate; the fill depends on a time the bucket does not know."""
        return f"<Bucket {self.rate.per_second:g}/s burst {self.rate.burst:g}>"

    def wait(self, now: float, cost: float) -> float:
        """Return the seconds until `cost` fits: 0.0 is now, infinity is never.

        Switches: never.
        """
        if cost > self.rate.burst:
            return math.inf
        # Compare instants, never sum them back: a bucket filled to the brim must take its burst.
        earliest = self.tat - (self.rate.burst - cost) * self.interval
        return max(0.0, earliest - now)

    def pay(self, now: float, cost: float) -> None:
        """Take `cost` out, whether or not it fits.

        Switches: never.
        """
        self.tat = max(self.tat, now) + cost * self.interval

    def remaining(self, now: float) -> int:
        """Return how many permits could go at `now`, at once.

        Switches: never.
        """
        return max(0, int(self.rate.burst - max(0.0, self.tat - now) / self.interval + 1e-9))

    def reset(self, now: float) -> float:
        """Return the seconds until the bucket is full again.

        Switches: never.
        """
        return max(0.0, self.tat - now)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Say whether a call goes; if not, which dimension refused and for how many seconds."""

    admitted: bool
    dimension: str = ""
    retry_after: float = 0.0

    @property
    def hopeless(self) -> bool:
        """Tell that the cost exceeds the burst: the same call never passes."""
        return math.isinf(self.retry_after)


_ADMITTED = Verdict(admitted=True)


class Quota:
    """Admit calls against requests and tokens together; either may be unlimited (None)."""

    __slots__ = ("requests", "tokens")

    def __init__(self, *, requests: Rate | None = None, tokens: Rate | None = None) -> None:
        self.requests = Bucket(requests) if requests else None
        self.tokens = Bucket(tokens) if tokens else None

    def __repr__(self) -> str:
        """Show both buckets."""
        return f"<Quota requests={self.requests} tokens={self.tokens}>"

    def take(self, now: float, *, tokens: int) -> Verdict:
        """Admit one request of `tokens` and charge both buckets, or charge neither and say why.

        Switches: never.
        """
        by_requests = self.requests.wait(now, 1.0) if self.requests else 0.0
        by_tokens = self.tokens.wait(now, tokens) if self.tokens else 0.0
        if by_requests or by_tokens:
            dimension = "tokens" if by_tokens > by_requests else "requests"
            return Verdict(admitted=False, dimension=dimension, retry_after=max(by_requests, by_tokens))
        if self.requests:
            self.requests.pay(now, 1.0)
        if self.tokens:
            self.tokens.pay(now, tokens)
        return _ADMITTED
