"""Keep many calls from holding the hub: once its round has lasted 5 ms, a call goes on in a later round.

When two hundred answers arrive together, the hub runs their greenlets one after the other before it
polls and fires timers; at half a millisecond each that is a tenth of a second without a timer. So a call
yields here, if that is due, before it computes for long.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from greenlet import getcurrent

from greenkit._clock import MONOTONIC
from greenkit.wait import hub_here

__all__ = ["yield_if_due"]

# Seconds of a round of the hub after which callers wait for a later one; gevent bounds callbacks by the same.
_BUDGET = 0.005


def yield_if_due() -> None:
    """Return at once, or, when the hub's round has lasted some milliseconds, in a later round, in order.

    Switches: may.
    """
    hub = hub_here()
    if hub is None:
        return  # this thread has no other greenlet to run
    try:
        rounds: _Rounds = hub.greenkit_rounds  # freed with the hub
    except AttributeError:
        rounds = hub.greenkit_rounds = _Rounds(hub)
    rounds.take()


class _Rounds:
    """The rounds of one hub: while there are callers, a timer of 0 s fires once in each."""

    __slots__ = ("_began", "_hub", "_timer", "_waiting")

    def __init__(self, hub: Any) -> None:
        self._hub = hub
        self._timer = hub.loop.timer(0.0)
        self._began: float | None = None  # None: no caller in this round, and the timer is stopped
        self._waiting: deque[_Waiter] = deque()

    def take(self) -> None:
        if self._began is None:
            self._begin()
        elif self._waiting or MONOTONIC.now() - self._began >= _BUDGET:
            waiter = _Waiter()
            self._waiting.append(waiter)
            try:
                self._hub.switch()
            finally:
                waiter.greenlet = None  # a killed one is still in the queue, and must not be resumed

    def _begin(self) -> float:
        self._began = MONOTONIC.now()
        self._timer.stop()
        self._timer.start(self._next)
        return self._began

    def _next(self) -> None:
        if not self._waiting:
            self._began = None
            return
        began = self._begin()
        while self._waiting and MONOTONIC.now() - began < _BUDGET:
            greenlet = self._waiting.popleft().greenlet
            if greenlet is not None:
                greenlet.switch()


class _Waiter:
    __slots__ = ("greenlet",)

    def __init__(self) -> None:
        self.greenlet: Any = getcurrent()
