"""Draw the numbers the mock LLM server makes up: how long an answer takes, how long it is.

Pure, and seeded by the caller's `random.Random`: the same seed draws the same answers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

__all__ = ["Draw", "parse_draw"]

_SHAPES = {"constant": 1, "uniform": 2, "lognormal": 2}


@dataclass(frozen=True, slots=True)
class Draw:
    """Describe a distribution: `constant` (value), `uniform` (low, high), `lognormal` (median, sigma)."""

    shape: str
    first: float
    second: float = 0.0

    def sample(self, rng: random.Random) -> float:
        """Draw one value, never below zero.

        Switches: never.
        """
        if self.shape == "constant":
            return self.first
        if self.shape == "uniform":
            return rng.uniform(self.first, self.second)
        return self.first * math.exp(rng.gauss(0.0, self.second))


def parse_draw(text: str | float) -> Draw:
    """Read a distribution: ``0.5``, ``uniform:0.2:0.8`` or ``lognormal:0.5:0.3`` (median, sigma).

    Raises:
        ValueError: The text names another shape, has the wrong number of values or a negative one.

    Switches: never.
    """
    parts = str(text).strip().lower().split(":")
    shape = "constant" if len(parts) == 1 else parts.pop(0)
    try:
        values = [float(part) for part in parts]
    except ValueError:
        values = []
    if _SHAPES.get(shape) != len(values) or not all(0 <= v < math.inf for v in values):
        raise ValueError(
            f'a distribution looks like "0.5", "uniform:0.2:0.8" or "lognormal:0.5:0.3" '
            f"(no value below zero); {text!r} does not"
        )
    if shape == "uniform" and values[0] > values[1]:
        raise ValueError(f"uniform wants low before high, {text!r} has them the other way round")
    return Draw(shape, *values)
