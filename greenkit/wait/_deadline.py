"""An instant by which something must be done: computed once by the outermost call and passed down.

A timeout passed from function to function starts anew in each; a deadline does not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from greenkit._clock import MONOTONIC, Clock

__all__ = ["Deadline"]


@dataclass(frozen=True, slots=True)
class Deadline:
    """Hold the instant after which waiting is useless.

    Attributes:
        at: Reading of `clock` in seconds; `inf` for "no deadline".
        clock: The clock `at` is read from.
    """

    at: float
    clock: Clock = MONOTONIC

    @classmethod
    def after(cls, seconds: float | None, *, clock: Clock = MONOTONIC) -> Deadline:
        """Return the deadline `seconds` from now; None means there is none.

        Switches: never.
        """
        return cls(math.inf if seconds is None else clock.now() + seconds, clock)

    @staticmethod
    def earliest(first: Deadline, second: Deadline) -> Deadline:
        """Return the one that comes first. Both must be read from the same clock.

        Switches: never.
        """
        return first if first.at <= second.at else second

    def remaining(self) -> float:
        """Return the seconds left: 0.0 when it is past, `inf` when there is no deadline.

        Switches: never.
        """
        return max(0.0, self.at - self.clock.now()) if self.at != math.inf else math.inf

    def timeout(self) -> float | None:
        """Return the seconds left in the form waits take: None when there is no deadline.

        Switches: never.
        """
        return None if self.at == math.inf else self.remaining()

    @property
    def expired(self) -> bool:
        """Tell whether the instant has passed."""
        return self.clock.now() >= self.at
