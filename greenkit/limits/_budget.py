"""One budget for everybody in the process: the state of the rules, its lock, and its line.

Whoever finds the budget open and nobody waiting takes it and never meets the hub. Everybody else
goes through a turnstile, a `WaitLine` of one: its holder is the *head*, who sleeps until its
instant has come and only then books its cost. So there is one timer however many wait, nobody
overtakes, a pause re-times one sleeper, and a head that is killed has nothing to give back.
"""

from __future__ import annotations

import math
import os
import weakref
from _thread import RLock  # native also after patching; never held across a switch
from typing import TYPE_CHECKING, Any

from gevent import get_hub

from greenkit.errors import LimitTimeout, WaitTimeout
from greenkit.limits._bell import Bell
from greenkit.limits._rules import JITTER_CREDIT
from greenkit.wait import WaitLine

if TYPE_CHECKING:
    from greenkit._clock import Clock
    from greenkit.limits._rules import Amounts, Rules

__all__ = ["Budget"]

# A head re-timed for less than this would cost more switches than it gains.
_WORTH_WAKING = 0.001
# The shortest answer to "how long", so that a refusal is never taken for a grant.
_AT_ONCE = 1e-9


class Budget:
    """Grant costs against rules, at once or in order.

    Safe from several native threads and after `fork`.

    Args:
        rules: The dimensions.
        clock: Where `now` comes from.
        name: Shown in errors.

    Attributes:
        granted: Costs granted so far.
        waiting: Greenlets in the line now, its head included.
    """

    __slots__ = (
        "__weakref__",
        "_acquire",
        "_ahead",
        "_bell",
        "_decide",
        "_head_at",
        "_head_costs",
        "_hubs",
        "_lock",
        "_now",
        "_paused_until",
        "_release",
        "_rules",
        "_tats",
        "_turn",
        "granted",
        "name",
        "waiting",
    )

    def __init__(self, rules: Rules, *, clock: Clock, name: str) -> None:
        self.name = name
        self._rules = rules
        self._decide = rules.decide
        self._now = clock.now
        self._tats = rules.start()
        self._paused_until = -math.inf
        # Re-entrant, because the collector may end a forgotten permit while this thread is inside.
        self._lock = RLock()
        self._acquire, self._release = self._lock.acquire, self._lock.release
        self._turn = WaitLine(1, name=name)
        self._ahead: list[float] = [0.0] * len(rules.rules)
        self._hubs: dict[object, tuple[Any, Amounts]] = {}
        self._bell: Bell | None = None
        self._head_at = math.inf
        self._head_costs: Amounts = ()
        self.granted = 0
        self.waiting = 0
        _budgets.add(self)

    def take_nowait(self, costs: Amounts) -> float:
        """Take `costs` if nobody waits and all of it may go now.

        Returns:
            0.0 when taken, else the seconds after which it would pass as things stand.

        Switches: never.
        """
        self._acquire()  # half the price of `with`, and this runs on every permit
        try:
            now = self._now()
            if not self.waiting and now >= self._paused_until:
                tats = self._decide(self._tats, costs, now, 0.0)
                if tats is not None:
                    self._tats = tats
                    self.granted += 1
                    return 0.0
            return max(self._eta(costs, now), _AT_ONCE)
        finally:
            self._release()

    def take(self, costs: Amounts, *, until: float) -> None:
        """Take `costs` when their turn and their instant have come.

        Args:
            costs: By dimension, in the order of the rules.
            until: Clock reading after which waiting makes no sense; `inf` for never.

        Raises:
            LimitTimeout: It cannot be granted in time, which is said as soon as it is known.

        Switches: may.
        """
        me = self._join(costs, until)
        try:
            self._wait_for_turn(costs, until)
            try:
                self._wait_for_instant(costs, until)
            finally:
                self._turn.release()
        finally:
            self._part(me, costs)

    def eta(self, costs: Amounts) -> float:
        """Return the seconds until `costs` would be granted, behind all who wait now.

        Switches: never.
        """
        with self._lock:
            return self._eta(costs, self._now())

    def settle(self, before: Amounts, costs: dict[str, float]) -> Amounts:
        """Correct what `before` cost to `costs`, by name; return the costs after.

        Switches: never.
        """
        self._acquire()
        try:
            self._tats, after = self._rules.settle(self._tats, before, costs, self._now())
            if self._bell is not None:
                self._retime_head()
            return after
        finally:
            self._release()

    def pause(self, seconds: float) -> None:
        """Grant nothing for `seconds` from now; never shortens a pause in force.

        Switches: never.
        """
        with self._lock:
            self._paused_until = max(self._paused_until, self._now() + seconds)
            if self._bell is not None:
                self._bell.ring()  # it may have become hopeless, which is to be said at once

    def paused_for(self) -> float:
        """Return the seconds the pause in force still lasts.

        Switches: never.
        """
        return max(0.0, self._paused_until - self._now())

    def available(self) -> dict[str, float]:
        """Return how many units could go now, by dimension.

        Switches: never.
        """
        now, tats = self._now(), self._tats
        return {
            rule.name: rule.available(tat, now) for rule, tat in zip(self._rules.rules, tats, strict=True)
        }

    def sleep(self, bell: Bell, seconds: float) -> None:
        """Sleep until `bell` rings or `seconds` have passed: the only sleep of this room.

        Switches: may.
        """
        bell.wait(seconds)

    def _join(self, costs: Amounts, until: float) -> object:
        me = object()
        with self._lock:
            now = self._now()
            eta = self._eta(costs, now)
            if now + eta > until:
                raise self._hopeless(eta, until - now)
            self.waiting += 1
            self._hubs[me] = get_hub(), costs
            self._ahead = [a + b for a, b in zip(self._ahead, costs, strict=True)]
        return me

    def _part(self, me: object, costs: Amounts) -> None:
        with self._lock:
            del self._hubs[me]
            self.waiting -= 1
            # Sums of fractions drift; an empty line is an exact zero.
            self._ahead = (
                [a - b for a, b in zip(self._ahead, costs, strict=True)]
                if self.waiting
                else [0.0] * len(costs)
            )

    def _wait_for_turn(self, costs: Amounts, until: float) -> None:
        timeout = None if until == math.inf else max(0.0, until - self._now())
        try:
            self._turn.acquire(timeout=timeout)
        except WaitTimeout:
            raise self._hopeless(self.eta(costs), timeout or 0.0) from None

    def _wait_for_instant(self, costs: Amounts, until: float) -> None:
        try:
            while (wait := self._take_as_head(costs)) > 0.0:
                bell = self._bell
                assert bell is not None
                if self._now() + wait > until:
                    raise self._hopeless(wait, until - self._now())
                self.sleep(bell, wait)
        finally:
            self._bell = None

    def _take_as_head(self, costs: Amounts) -> float:
        """Take `costs` if their instant has come, else hang up a bell and return for how long to sleep."""
        with self._lock:
            now = self._now()
            if now >= self._paused_until:
                tats = self._decide(self._tats, costs, now, JITTER_CREDIT)
                if tats is not None:
                    self._tats = tats
                    self.granted += 1
                    return 0.0
            # A new one each time: what rings from here on is heard, what rang before is dealt with.
            self._bell = Bell()
            self._head_costs = costs
            self._head_at = self._instant(costs)
            return max(self._head_at - now, _AT_ONCE)

    def _retime_head(self) -> None:
        """Wake the head if its instant has come nearer. The lock is held."""
        if self._bell is not None and self._instant(self._head_costs) < self._head_at - _WORTH_WAKING:
            self._bell.ring()

    def _instant(self, costs: Amounts) -> float:
        """Return from when `costs` may go, were nobody ahead."""
        return max(self._paused_until, self._rules.earliest(self._tats, costs))

    def _eta(self, costs: Amounts, now: float) -> float:
        start = max(now, self._paused_until)
        tats = tuple([max(tat, start) for tat in self._tats])
        behind = tuple([a + b for a, b in zip(self._ahead, costs, strict=True)]) if self.waiting else costs
        return max(start, self._rules.earliest(tats, behind)) - now

    def _hopeless(self, wait: float, patience: float) -> LimitTimeout:
        paused = self.paused_for()
        why = f"it is paused for {paused:.3g} s" if paused else f"{self.waiting} wait for it"
        return LimitTimeout(
            f"limit {self.name!r} would let this through in {wait:.3g} s, and the caller waits no longer "
            f"than {max(0.0, patience):.3g} s ({why}). Nothing was taken. Wait longer, send less, or "
            "raise the limit.",
            retry_after=wait,
        )

    def _after_fork(self) -> None:
        """Forget, in a forked child, those who wait in threads that exist only in the parent."""
        self._lock = RLock()
        self._acquire, self._release = self._lock.acquire, self._lock.release
        here = get_hub()
        self._hubs = {me: seen for me, seen in self._hubs.items() if seen[0] is here}
        self.waiting = len(self._hubs)
        columns = zip(*(costs for _, costs in self._hubs.values()), strict=True)
        self._ahead = [sum(column) for column in columns] or [0.0] * len(self._rules.rules)
        if not self._hubs:
            self._turn = WaitLine(1, name=self.name)  # its holder may not exist here
            self._bell = None


def _reset_budgets_after_fork() -> None:
    for budget in list(_budgets):
        budget._after_fork()


_budgets: weakref.WeakSet[Budget] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_budgets_after_fork)
