"""What a limiter tells about itself, from bounded memories: of waits, and of what calls cost."""

from __future__ import annotations

import bisect
import math
import random
from collections import deque
from dataclasses import dataclass

__all__ = ["Estimate", "Guess", "LimiterStatistics", "Tally", "Waits"]


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


class Waits:
    """Remember a fair sample of the waits that were not 0; those that were are only counted.

    Args:
        size: Waits kept. 1024 put p95 within two percentage points.

    Source: Vitter 1985, algorithm R.
    """

    __slots__ = ("_random", "_sample", "_size", "count", "longest")

    def __init__(self, size: int = 1024) -> None:
        self._size = size
        self._sample: list[float] = []
        # Own and seeded: a limiter must not disturb the program's random numbers.
        self._random = random.Random(size)
        self.count = 0
        self.longest = 0.0

    def add(self, seconds: float) -> None:
        """Take one wait into account."""
        self.count += 1
        self.longest = max(self.longest, seconds)
        if len(self._sample) < self._size:
            self._sample.append(seconds)
            return
        place = self._random.randrange(self.count)
        if place < self._size:
            self._sample[place] = seconds

    def quantile(self, share: float, *, of: int) -> float:
        """Return the wait that `share` (0 to 1) of `of` permits did not exceed."""
        rank = share * of - (of - self.count)
        if rank <= 0 or not self._sample:
            return 0.0
        ordered = sorted(self._sample)
        return ordered[min(len(ordered) - 1, int(rank / self.count * len(ordered)))]


class Guess(float):
    """Be a cost that remembers which estimate it came from, so that `settle()` can teach it."""

    __slots__ = ("_estimate", "_known")

    _estimate: Estimate
    _known: float

    def __new__(cls, value: float, estimate: Estimate, known: float) -> Guess:
        """Return `value` as a cost, of which `known` was no guess."""
        guess = super().__new__(cls, value)
        guess._estimate = estimate
        guess._known = known
        return guess

    def teach(self, real: float) -> None:
        """Tell the estimate what the call cost in the end.

        Switches: never.
        """
        self._estimate.learn(real - self._known)


class Estimate:
    """Answer with what nine of ten recent calls did not exceed; made by `Limiter.estimate()`.

    Args:
        first: The answer before anything was learnt, and one vote among the first learnt.
        most: Never more, such as the `max_tokens` of the request.
        share: Which share of recent calls the answer covers.
        memory: How many calls are recent.
    """

    __slots__ = ("_first", "_most", "_ordered", "_recent", "_share")

    def __init__(
        self, first: float, *, most: float = math.inf, share: float = 0.9, memory: int = 200
    ) -> None:
        if not 0 <= first <= most:
            msg = f"first must be between 0 and most={most:g}, not {first!r}"
            raise ValueError(msg)
        if not 0 < share <= 1 or memory < 1:
            msg = f"share must be in (0, 1] and memory at least 1, not {share!r} and {memory!r}"
            raise ValueError(msg)
        self._most = most
        self._share = share
        self._first = first
        self._recent: deque[float] = deque(maxlen=memory)
        self._ordered: list[float] = []

    def __repr__(self) -> str:
        return f"<Estimate {self.value:g} from {len(self._recent)} calls>"

    @property
    def value(self) -> float:
        """Return the estimate as of now."""
        if not self._ordered:
            return self._first
        rank = math.ceil(self._share * len(self._ordered)) - 1
        return min(self._most, self._ordered[rank])

    def guess(self, known: float = 0.0) -> Guess:
        """Return a cost for a permit: the estimate, and what is `known` of this call already.

        Example:
            with llm.permit(tokens=output.guess(prompt_tokens)) as permit:
                reply = ask()
                permit.settle(tokens=reply.usage.total_tokens)

        Switches: never.
        """
        return Guess(known + self.value, self, known)

    def learn(self, real: float) -> None:
        """Take in what a call cost beyond what was known of it; `settle()` does this for a guess.

        Switches: never.
        """
        real = max(0.0, real)
        if len(self._recent) == self._recent.maxlen:
            del self._ordered[bisect.bisect_left(self._ordered, self._recent[0])]
        self._recent.append(real)
        bisect.insort(self._ordered, real)
