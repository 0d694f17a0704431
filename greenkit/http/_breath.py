"""Keep a crowd of calls from holding the hub: whoever comes late in a round goes on in a later one.

When two hundred answers come at once, the hub runs their greenlets one after the other before it
looks at anything else; at half a millisecond each that is a tenth of a second in which no timer
goes off. So calls ask here before they do something long.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from greenlet import getcurrent

from greenkit._clock import MONOTONIC
from greenkit.wait import hub_here

__all__ = ["breathe"]

# Seconds of a hub's round after which the next to ask must wait: gevent's own measure for callbacks.
_BUDGET = 0.005


def breathe() -> None:
    """Return at once, or, when the hub's round has lasted some milliseconds, in a later round, in order.

    Switches: may.
    """
    hub = hub_here()
    if hub is None:
        return  # a thread without others to let run
    try:
        rounds: _Rounds = hub.greenkit_breath  # it lives and goes with its hub
    except AttributeError:
        rounds = hub.greenkit_breath = _Rounds(hub)
    rounds.take()


class _Rounds:
    """The rounds of one hub: a timer of no time goes off once in each, for as long as somebody asks."""

    __slots__ = ("_began", "_hub", "_timer", "_waiting")

    def __init__(self, hub: Any) -> None:
        self._hub = hub
        self._timer = hub.loop.timer(0.0)
        self._began: float | None = None  # None: nobody has asked in this round, the timer is off
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
                waiter.greenlet = None  # killed, perhaps, before its turn

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
