"""A limiter whose alarm moves the clock, so that hours of waiting take no time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gevent

from greenkit.limits import Limiter, _permit
from greenkit.limits._queue import WakeTimer
from greenkit.testing import FakeClock

if TYPE_CHECKING:
    import pytest


def sleeping_moves_the_clock(monkeypatch: pytest.MonkeyPatch, clock: FakeClock, *, turns: int = 4) -> None:
    """Have an alarm give `turns` turns of the loop to others, then move `clock` and go off.

    One that is set anew in those turns does not go off, as a real one does not.
    """

    def start(self, hub, seconds):
        if not self._ref:
            return  # housekeeping: nobody waits for it
        self._timer = mine = object()
        clock = self._callback.__self__.now.__self__  # a limiter left over from another test has its own

        def turn():
            for _ in range(turns):
                gevent.sleep(0)
                if self._timer is not mine:
                    return
            self._timer = None
            clock.advance(max(seconds, 0.0))
            hub.loop.run_callback(self._callback)

        gevent.spawn(turn)

    def cancel(self):
        self._timer = None

    def sleep(seconds):
        for _ in range(turns):
            gevent.sleep(0)
        clock.advance(seconds)

    monkeypatch.setattr(WakeTimer, "_start", start)
    monkeypatch.setattr(WakeTimer, "cancel", cancel)
    monkeypatch.setattr(_permit, "sleep", sleep)


def drain(limiter: Limiter, many: int, **costs: float) -> list[tuple[float, int]]:
    """Send `many` waiters through; return (instant, number) in the order they passed."""
    passed = []

    def one(number):
        with limiter.permit(**costs):
            passed.append((limiter.clock.now(), number))

    gevent.joinall([gevent.spawn(one, number) for number in range(many)], raise_error=True)
    return passed
