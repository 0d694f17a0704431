"""A limiter whose sleeper moves the clock, so that hours of waiting take no time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gevent

from greenkit.limits import Limiter
from greenkit.limits._budget import Budget
from greenkit.testing import FakeClock

if TYPE_CHECKING:
    import pytest


def sleeping_moves_the_clock(monkeypatch: pytest.MonkeyPatch, clock: FakeClock, *, turns: int = 3) -> None:
    """Have the head's sleep give `turns` turns of the loop to others, then move `clock`.

    A bell that rings in those turns ends the sleep early, as it ends a real one.
    """

    def sleep(self, bell, seconds):
        for _ in range(turns):
            gevent.sleep(0)
            if bell.rung:
                return
        clock.advance(seconds)

    monkeypatch.setattr(Budget, "sleep", sleep)


def drain(limiter: Limiter, many: int, **costs: float) -> list[tuple[float, int]]:
    """Send `many` waiters through; return (instant, number) in the order they passed."""
    passed = []

    def one(number):
        with limiter.permit(**costs):
            passed.append((limiter.clock.now(), number))

    gevent.joinall([gevent.spawn(one, number) for number in range(many)], raise_error=True)
    return passed
