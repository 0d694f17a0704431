"""Guess what a call will cost from what calls cost lately, for costs known only afterwards."""

from __future__ import annotations

import bisect
import math
from collections import deque

__all__ = ["Estimate", "Guess"]


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
