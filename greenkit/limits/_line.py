"""Who waits for a limit, in which order: three lanes, of which none starves.

A plain structure without clock, lock or switch; the budget holds its lock around every call.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from greenkit.limits._bell import GreenBell, NativeBell
    from greenkit.limits._rules import Amounts

__all__ = ["BATCH", "LANES", "NORMAL", "PATIENCE", "RETRY", "Line", "Waiter", "lane_of"]

LANES = ("retry", "normal", "batch")
RETRY, NORMAL, BATCH = range(3)

# A lane lets this many go first while it has somebody waiting; the next grant is its own.
PATIENCE = 8
# Those who left a lane are kept up to so many, so that clearing it is worth its while.
_LEFT = 64


def lane_of(priority: str) -> int:
    """Return the number of a lane, 0 being served first.

    Raises:
        ValueError: There is no such priority.

    Switches: never.
    """
    try:
        return LANES.index(priority)
    except ValueError:
        msg = f"priority must be one of {', '.join(map(repr, LANES))}, not {priority!r}"
        raise ValueError(msg) from None


class Waiter:
    """One caller in line.

    Attributes:
        costs: What it asks for.
        lane: Place of its priority in `LANES`.
        until: Clock reading after which waiting makes no sense; `inf` for never.
        bell: Wakes it.
        granted: It has what it asked for, though it may not have run yet.
        error: Why it gets nothing.
        alarm: For a waiter without a hub: the clock reading at which it looks after the line.
    """

    __slots__ = ("alarm", "bell", "costs", "error", "granted", "lane", "left", "until")

    def __init__(self, costs: Amounts, *, lane: int, until: float, bell: GreenBell | NativeBell) -> None:
        self.costs = costs
        self.lane = lane
        self.until = until
        self.bell = bell
        self.granted = False
        self.error: BaseException | None = None
        self.left = False
        self.alarm = math.inf

    @property
    def done(self) -> bool:
        """Tell whether it need not wait any more."""
        return self.granted or self.error is not None


class Line:
    """Keep waiters in lanes, first come first served within each.

    Whoever stands first keeps its place whatever it costs, so a big cost is not starved by small
    ones. A higher lane goes first, but after `PATIENCE` grants that went before it a lower lane has the next.

    Args:
        dimensions: How many numbers a cost has.

    Attributes:
        waiting: Waiters in all lanes.
    """

    __slots__ = ("_lanes", "_numbers", "_passed", "_size", "_sums", "_times", "waiting")

    def __init__(self, dimensions: int) -> None:
        self._lanes: tuple[deque[Waiter], ...] = tuple(deque() for _ in LANES)
        self._size = [0] * len(LANES)
        self._sums = [[0.0] * dimensions for _ in LANES]
        self._passed = [0] * len(LANES)
        self._times: list[tuple[float, int, Waiter]] = []
        self._numbers = count()
        self.waiting = 0

    def __iter__(self) -> Iterator[Waiter]:
        """Yield the waiters, highest lane first. Switches: never."""
        for lane in self._lanes:
            for waiter in lane:
                if not waiter.left:
                    yield waiter

    def add(self, waiter: Waiter) -> None:
        """Put `waiter` at the end of its lane.

        Switches: never.
        """
        lane = waiter.lane
        self._lanes[lane].append(waiter)
        self._size[lane] += 1
        sums = self._sums[lane]
        for place, cost in enumerate(waiter.costs):
            sums[place] += cost
        self.waiting += 1
        if waiter.until != math.inf:
            heapq.heappush(self._times, (waiter.until, next(self._numbers), waiter))

    def remove(self, waiter: Waiter) -> None:
        """Take `waiter` out, wherever it stands; doing it twice is fine.

        Switches: never.
        """
        if waiter.left:
            return
        # Only marked: searching a long lane for everybody who dies would be quadratic.
        waiter.left = True
        lane = waiter.lane
        self._size[lane] -= 1
        self.waiting -= 1
        sums = self._sums[lane]
        if self._size[lane]:
            for place, cost in enumerate(waiter.costs):
                sums[place] -= cost
        else:
            sums[:] = [0.0] * len(sums)  # exactly: sums of fractions drift
            self._passed[lane] = 0
        self._forget(lane)

    def head(self) -> Waiter | None:
        """Return whose turn it is; whoever waits in a thread that has ended is forgotten.

        Switches: never.
        """
        while self.waiting:
            lane = self._lanes[self._turn()]
            while lane[0].left:
                lane.popleft()
            if not lane[0].bell.gone:
                return lane[0]
            self.remove(lane[0])
        return None

    def grant(self, waiter: Waiter) -> None:
        """Take the head out because it has what it asked for, and remember whom it went before.

        Switches: never.
        """
        self.remove(waiter)
        self._passed[waiter.lane] = 0
        if self.waiting:
            for lane in range(waiter.lane + 1, len(LANES)):
                if self._size[lane]:
                    self._passed[lane] += 1

    def expired(self, now: float) -> Waiter | None:
        """Take out and return a waiter whose time is over, if there is one.

        Switches: never.
        """
        while self._times and (self._times[0][2].left or self._times[0][0] <= now):
            waiter = heapq.heappop(self._times)[2]
            if not waiter.left:
                self.remove(waiter)
                return waiter
        return None

    def next_expiry(self) -> float:
        """Return the clock reading at which the next waiter's time is over.

        Switches: never.
        """
        while self._times and self._times[0][2].left:
            heapq.heappop(self._times)
        return self._times[0][0] if self._times else math.inf

    def ahead(self, lane: int) -> Amounts:
        """Return what is granted before somebody who joins `lane` now.

        Its own lane, and the lanes above as far as they may go first.

        Switches: never.
        """
        total = list(self._sums[lane])
        before = PATIENCE * (self._size[lane] + 1)
        for higher in range(lane):
            if self._size[higher]:
                share = min(1.0, before / self._size[higher])
                total = [one + more * share for one, more in zip(total, self._sums[higher], strict=True)]
        return tuple(total)

    def _forget(self, lane: int) -> None:
        """Drop those who left once they are the most, so that they cost no memory behind a long wait."""
        if len(self._lanes[lane]) > 2 * self._size[lane] + _LEFT:
            stay = [waiter for waiter in self._lanes[lane] if not waiter.left]
            self._lanes[lane].clear()
            self._lanes[lane].extend(stay)
        if len(self._times) > 2 * self.waiting + _LEFT:
            self._times = [entry for entry in self._times if not entry[2].left]
            heapq.heapify(self._times)

    def _turn(self) -> int:
        """Return the lane whose first waiter is next; somebody waits."""
        for lane in range(len(LANES) - 1, 0, -1):
            if self._size[lane] and self._passed[lane] >= PATIENCE:
                return lane
        return next(lane for lane, size in enumerate(self._size) if size)
