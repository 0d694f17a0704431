"""One budget for everybody in the process: what can be asked of it, given back, and changed.

Whoever finds the budget open and nobody waiting takes it and never meets the hub. Everybody else stands in
queue (`_turns`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from greenkit.limits._queue import NORMAL, Waiter, parker_here
from greenkit.limits._turns import SLOT_RETRY, Turns

if TYPE_CHECKING:
    from collections.abc import Mapping

    from greenkit._aimd import AdaptiveSize
    from greenkit.limits._rules import Amounts, Rules

__all__ = ["Budget"]


class Budget(Turns):
    """Grant costs and slots, at once or in order.

    Safe from several native threads and after `fork`.
    """

    __slots__ = ()

    # -- asking ------------------------------------------------------------------------------------

    def take_nowait(self, costs: Amounts) -> float:
        """Take `costs` if nobody waits and all of it may go now.

        Returns:
            0.0 when taken, else the seconds after which it would pass as things stand.

        Switches: never.
        """
        with self.lock:
            now = self.now()
            store = self.store
            if not self.queue.waiting and not store.admit(costs, now, credit=0.0):
                return 0.0
            eta = store.eta(costs, self.queue.ahead(NORMAL), now)
            return max(eta, SLOT_RETRY if store.full or store.half_open.out else 1e-9)

    def take(self, costs: Amounts, *, lane: int, until: float) -> None:
        """Take `costs` when their turn and their instant have come.

        Args:
            costs: By dimension, in the order of the rules.
            lane: Number of the priority.
            until: Clock reading after which waiting makes no sense; `inf` for never.

        Raises:
            LimitTimeout: It cannot be granted in time, which is said as soon as it is known.

        Switches: may.
        """
        with self.lock:
            now = self.now()
            queue, store = self.queue, self.store
            # It may have come back since the caller looked, and nobody would look again.
            if not queue.waiting and not store.admit(costs, now, credit=0.0):
                return
            if until < math.inf:
                eta = store.eta(costs, queue.ahead(lane), now)
                if until <= now or now + eta > until:
                    raise self._too_late(eta, until - now, costs)
            waiter = Waiter(costs, lane=lane, until=until, parker=parker_here())
            self._join(waiter)
            head = queue.head() or waiter
            if head is waiter or until < self._head_at:
                self._set_timer(head, store.due(head.costs), now)
            self._tell()
        try:
            self._sleep(waiter)
        except BaseException:
            self._quit(waiter)
            raise
        if waiter.error is not None:
            raise waiter.error

    def eta(self, costs: Amounts, *, lane: int = NORMAL) -> float:
        """Return the seconds until `costs` would be granted, behind all who wait now.

        Switches: never.
        """
        with self.lock:
            return self.store.eta(costs, self.queue.ahead(lane), self.now())

    # -- giving back, and changing -----------------------------------------------------------------

    def settle(self, before: Amounts, costs: Mapping[str, float]) -> Amounts:
        """Correct what `before` cost to `costs`, by name; return the costs after.

        Switches: never.
        """
        with self.lock:
            after = self.store.settle(before, costs, self.now())
            if self.queue.waiting:
                self._retime()
            self._tell()
            return after

    def take_back(self, costs: Amounts) -> None:
        """Undo a `take()` of which nothing was used, its slot included.

        Switches: never.
        """
        with self.lock:
            self.store.take_back(costs, self.now())
            self._changed()

    def give_back_slot(self) -> None:
        """Let the next have the slot of a call that ended, where slots are counted.

        Switches: never.
        """
        if self.store.slots is not None:
            with self.lock:
                self.store.give_back_slot()
                self._look_soon()
                self._tell()

    def heard(self, *, error: bool) -> None:
        """Learn how many at once the server likes; `error` when it was too busy.

        Switches: never.
        """
        with self.lock:
            if self.store.heard(self.now(), error=error):
                self._look_soon()

    def pause(self, seconds: float, *, asked: bool = False) -> None:
        """Grant nothing for `seconds` from now; never shortens a pause in force.

        Args:
            seconds: From now.
            asked: The server asked for it: one permit goes first when it is over.

        Switches: never.
        """
        with self.lock:
            self.store.pause(seconds, self.now(), asked=asked)
            self._changed()

    def probe(self) -> int:
        """Return the number of the pause after which a permit granted now goes first, or 0.

        Switches: never.
        """
        return self.store.half_open.number

    def probe_answered(self, number: int, *, passed: bool) -> None:
        """Hear how a permit ended that went first after pause `number`: the rest follow, or another goes.

        Switches: never.
        """
        with self.lock:
            if self.store.probe_answered(number, self.now(), passed=passed):
                self._changed()

    def resume(self) -> None:
        """End the pause in force.

        Switches: never.
        """
        with self.lock:
            self.store.resume()
            self._changed()

    def slow_down(self, pause: float) -> None:
        """Grant nothing for `pause` seconds, and use less of the rate for a while, after a 429.

        Switches: never.
        """
        with self.lock:
            self.store.slow_down(self.now())
            self.pause(pause, asked=True)

    def learn(self, available: Mapping[str, float], shares: Mapping[str, float]) -> None:
        """Let no more than `available` go now, and use at most these `shares` of the rates.

        Switches: never.
        """
        with self.lock:
            now = self.now()
            # Most answers of a server tell nothing new, and those cost no look at the queue.
            if self.store.ceil(shares, now) | self.store.limit_to(available, now):
                self._changed()

    def configure(self, rules: Rules, slots: int | AdaptiveSize | None) -> None:
        """Go on under other rules of the same dimensions; what is out stays out.

        Switches: never.
        """
        with self.lock:
            self.store.configure(rules, slots, self.now())
            for waiter in list(self.queue):
                waiter.error = self.store.too_high(waiter.costs)
                if waiter.error is not None:
                    self.queue.remove(waiter)
                    waiter.parker.wake()
            self._changed()

    def available(self) -> dict[str, float]:
        """Return how many units could go now, by rule.

        Switches: never.
        """
        with self.lock:
            return self.store.available(self.now())

    def view(self) -> Budget:
        """Return what is to be looked at: this.

        Switches: never.
        """
        return self

    def quiet(self) -> bool:
        """Tell whether nothing is to be remembered but the state of the rules.

        Switches: never.
        """
        with self.lock:
            return not self.queue.waiting and self.store.quiet(self.now())
