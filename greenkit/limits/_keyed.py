"""One limit for each of many keys, of which hardly any is in use at a time.

A key at rest is a number in a dict; only while somebody waits, holds a slot, or a pause is in force does
it have a budget of its own. A number is worth nothing once its budget is full again, so the dicts are
kept by age: the youngest is written to, and one that has not been written to for as long as a budget
takes to fill is thrown away, a few entries at a time.
"""

from __future__ import annotations

import math
from _thread import RLock
from collections import deque
from contextlib import contextmanager
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Any

from greenkit.limits._queue import NORMAL, WakeTimer, after_fork
from greenkit.wait import Mailbox, hub_here

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping

    from greenkit._clock import Clock
    from greenkit.limits._gcra import Amounts, Rules
    from greenkit.limits._local import LocalBudget

__all__ = ["KeyBudget", "Keys"]

# Entries looked at per permit and per turn of the timer: 20 us and 1 ms.
_FEW, _MANY = 4, 1000
_NEXT_CLEANING = 0.01
# Check again after this many seconds whether a key's budget can go.
_LEAVE = 1.0
_LONGEST = 3600.0


class _Age:
    """One generation of key states, with the rules they were written under."""

    __slots__ = ("closed", "rules", "tats", "weights")

    def __init__(self, rules: Rules) -> None:
        # One dimension is kept as a bare float, which halves what a key costs.
        self.tats: dict[Hashable, Any] = {}
        self.weights: dict[Hashable, float] = {}  # of those whose weight is not 1
        self.rules = rules
        self.closed = 0.0


class Keys:
    """Remember the state of every key for as long as it matters.

    Args:
        rules: The same for all.
        clock: Where time comes from.
        make: Makes the budget of a key that is in use, of its weight.
        rules_of: Makes the rules for a weight.
        slots_of: Makes the slots for a weight.
        local: States are kept here, and not in a shared store.
        plain: A permit takes no more than the state: it is local, and no slots are counted.

    Attributes:
        granted: Permits given to keys that are at rest now.
        plain: As given.
        rules: As given.
    """

    __slots__ = (
        "__weakref__",
        "_ages",
        "_armed_until",
        "_leaving",
        "_live",
        "_local",
        "_lock",
        "_make",
        "_next",
        "_now",
        "_rules_of",
        "_slots_of",
        "_span",
        "_users",
        "_wake_timer",
        "_weights",
        "granted",
        "plain",
        "rules",
    )

    def __init__(
        self,
        rules: Rules,
        *,
        clock: Clock,
        make: Callable[[Hashable, float], LocalBudget],
        rules_of: Callable[[float], Rules],
        slots_of: Callable[[float], Any],
        local: bool,
        plain: bool,
    ) -> None:
        self.rules = rules
        self._local = local
        self.plain = plain
        self.granted = 0
        self._make = make
        self._rules_of = rules_of
        self._slots_of = slots_of
        self._now = clock.now
        self._lock = RLock()
        self._live: dict[Hashable, LocalBudget] = {}
        self._weights: dict[Hashable, float] = {}  # of the live ones
        self._users: dict[Hashable, int] = {}
        # Unused keys with something left to remember, oldest first.
        self._leaving: dict[Hashable, None] = {}
        self._ages: deque[_Age] = deque()  # the youngest first
        self._begin_age()
        self._wake_timer = WakeTimer(self._clean_up, ref=False)
        self._armed_until = -math.inf
        after_fork(self)

    def __len__(self) -> int:
        """Return how many keys are remembered."""
        return len(self._live) + sum(len(age.tats) for age in self._ages)

    @property
    def live(self) -> list[LocalBudget]:
        """Return the budgets of the keys in use."""
        with self._lock:
            return list(self._live.values())

    def take_nowait(self, key: Hashable, weight: float, costs: Amounts) -> float:
        """As `LocalBudget.take_nowait()`."""
        with self._lock:
            if not self.plain or key in self._live:
                with self.budget(key, weight) as budget:
                    return budget.try_take(costs) if self._local else budget.take_nowait(costs)
            now = self._now()
            rules = self._rules_for(weight)
            state = self._state(key, rules, now)
            tats = rules.decide(state, costs, now, credit=0.0)
            if tats is None:
                return max(rules.earliest(state, costs) - now, 1e-9)
            self._remember(key, weight, tats, now)
            self.granted += 1
            return 0.0

    def settle(self, key: Hashable, weight: float, before: Amounts, costs: Mapping[str, float]) -> Amounts:
        """As `LocalBudget.settle()`."""
        with self._lock:
            if not self.plain or key in self._live:
                with self.budget(key, weight) as budget:
                    return budget.settle(before, costs)
            now = self._now()
            rules = self._rules_for(weight)
            tats, after = rules.settle(self._state(key, rules, now), before, costs, now)
            self._remember(key, weight, tats, now)
            return after

    @contextmanager
    def budget(self, key: Hashable, weight: float) -> Iterator[LocalBudget]:
        """Give `key` a budget for the length of a block, or longer if it is needed longer."""
        with self._lock:
            budget = self._live.get(key)
            if budget is None:
                budget = self._wake(key, weight)
            elif self._weights[key] != weight:
                self._weights[key] = weight
                budget.configure(self._rules_for(weight), self._slots_of(weight))
            self._users[key] = self._users.get(key, 0) + 1
        try:
            yield budget
        finally:
            with self._lock:
                self._users[key] -= 1
                self._rest(key)
                for other in list(islice(self._leaving, _FEW)):
                    self._rest(other)
                self._arm()

    def look(self, key: Hashable, weight: float) -> LocalBudget:
        """Return a budget to look at: the one in use, or one as it would be."""
        with self._lock:
            budget = self._live.get(key)
            return self._made(key, weight) if budget is None else budget

    def probe(self, key: Hashable) -> int:
        """As `LocalBudget.probe()`."""
        budget = self._live.get(key)  # one at rest has no pause to come back from
        return 0 if budget is None else budget.probe()

    def configure(self, rules: Rules, *, slots: bool) -> None:
        """Have all keys go on under other rules, and where `slots` says so, with new slots."""
        with self._lock:
            self.rules = rules
            self._begin_age()
            for key, budget in self._live.items():
                weight = self._weights[key]
                budget.configure(
                    self._rules_for(weight), self._slots_of(weight) if slots else budget.state.slots
                )

    # -- the lock is held in all that follows --------------------------------------------------------

    def _wake(self, key: Hashable, weight: float) -> LocalBudget:
        budget = self._live[key] = self._made(key, weight)
        self._weights[key] = weight
        return budget

    def _made(self, key: Hashable, weight: float) -> LocalBudget:
        budget = self._make(key, weight)
        if self._local:
            budget.state.tats = self._state(key, self._rules_for(weight), self._now())
        return budget

    def _rest(self, key: Hashable) -> None:
        """Let `key` have no budget of its own if nobody needs it."""
        self._leaving.pop(key, None)
        budget = self._live.get(key)
        if budget is None or self._users.get(key):
            return
        if not budget.quiet():
            self._leaving[key] = None
            return
        del self._live[key]
        self._users.pop(key, None)
        weight = self._weights.pop(key)
        self.granted += budget.state.granted
        if self._local:
            self._remember(key, weight, budget.state.tats, self._now())

    def _state(self, key: Hashable, rules: Rules, now: float) -> Amounts:
        for age in self._ages:
            state = age.tats.get(key)
            if state is not None:
                tats = state if type(state) is tuple else (state,)
                before = self._rules_then(age, key)
                return tats if before is rules else rules.taken_over(tats, before, now)
        return rules.start()

    def _rules_for(self, weight: float) -> Rules:
        return self.rules if weight == 1.0 else self._rules_of(weight)

    def _rules_then(self, age: _Age, key: Hashable) -> Rules:
        """Return the rules `key` was written under."""
        weight = age.weights.get(key, 1.0)
        return self._rules_for(weight) if age.rules is self.rules else age.rules.times(weight)

    def _remember(self, key: Hashable, weight: float, tats: Amounts, now: float) -> None:
        if now >= self._next:
            self._begin_age()
        young = self._ages[0].tats
        if len(self._ages) > 1:
            self._clean(_FEW, now)
            for age in islice(self._ages, 1, None):
                age.tats.pop(key, None)
                age.weights.pop(key, None)
        idle = self.rules.idle(tats, now)
        if weight != 1.0 and not idle:
            self._ages[0].weights[key] = weight
        elif self._ages[0].weights:
            self._ages[0].weights.pop(key, None)
        if idle:
            young.pop(key, None)
        else:
            young[key] = tats if len(tats) > 1 else tats[0]
            self._arm()

    def _begin_age(self) -> None:
        now = self._now()
        if self._ages:
            self._ages[0].closed = now
        self._ages.appendleft(_Age(self.rules))
        # After how long a budget nobody has touched is full.
        fill = max((rule.burst * rule.interval for rule in self.rules.rules), default=_LONGEST)
        self._span = min(_LONGEST, fill)
        self._next = now + self._span

    def _clean(self, most: int, now: float) -> bool:
        """Throw away what is full again, at most so many entries; tell whether there may be more."""
        oldest = self._ages[-1]
        if len(self._ages) == 1 or now < oldest.closed + self._span:
            return False
        for _ in range(min(most, len(oldest.tats))):
            key, state = oldest.tats.popitem()
            tats = state if type(state) is tuple else (state,)
            weight = oldest.weights.pop(key, 1.0)
            if not self.rules.idle(tats, now):  # in debt, of slower rules, or of a day that is not over
                tats = self._rules_for(weight).taken_over(tats, oldest.rules.times(weight), now)
                self._ages[0].tats.setdefault(key, tats[0] if len(tats) == 1 else tats)
                if weight != 1.0:
                    self._ages[0].weights.setdefault(key, weight)
        if not oldest.tats:
            self._ages.pop()
        return True

    def _arm(self, seconds: float = math.inf) -> None:
        now = monotonic()
        if now < self._armed_until:
            return
        hub = hub_here()
        if hub is not None:
            seconds = min(seconds, self._span, _LEAVE if self._leaving else _LONGEST)
            # Overdue, it is set anew: the thread of the hub it was set in may not wait for anything any more.
            self._armed_until = now + seconds + _LEAVE
            self._wake_timer.set(Mailbox.of(hub), seconds)

    def _clean_up(self) -> None:
        """Clean up a little, in the hub; where there is none the permits do it."""
        with self._lock:
            self._armed_until = -math.inf
            for key in list(islice(self._leaving, _MANY)):
                self._rest(key)
            now = self._now()
            if now >= self._next and self._ages[0].tats:
                self._begin_age()
            more = self._clean(_MANY, now)
            if len(self):
                self._arm(_NEXT_CLEANING if more else math.inf)

    def after_fork(self) -> None:
        """Have a lock nobody holds."""
        self._lock._at_fork_reinit()  # type: ignore[attr-defined] # as threading does with its own


class KeyBudget:
    """Be the budget of one key, wherever it is kept at the moment; see `LocalBudget`."""

    __slots__ = ("_key", "_keys", "_weight")

    def __init__(self, keys: Keys, key: Hashable, weight: float) -> None:
        self._keys = keys
        self._key = key
        self._weight = weight

    def take_nowait(self, costs: Amounts) -> float:
        """As `LocalBudget.take_nowait()`."""
        return self._keys.take_nowait(self._key, self._weight, costs)

    def try_take(self, costs: Amounts) -> float:
        """As `LocalBudget.try_take()`."""
        if self._keys.plain:
            return self._keys.take_nowait(self._key, self._weight, costs)
        with self._keys.budget(self._key, self._weight) as budget:
            return budget.try_take(costs)

    def take(self, costs: Amounts, *, lane: int, until: float) -> None:
        """As `LocalBudget.take()`."""
        with self._keys.budget(self._key, self._weight) as budget:
            budget.take(costs, lane=lane, until=until)

    def settle(self, before: Amounts, costs: Mapping[str, float]) -> Amounts:
        """As `LocalBudget.settle()`."""
        return self._keys.settle(self._key, self._weight, before, costs)

    def eta(self, costs: Amounts, *, lane: int = NORMAL) -> float:
        """As `LocalBudget.eta()`."""
        return self.view().eta(costs, lane=lane)

    def give_back_slot(self) -> None:
        """As `LocalBudget.give_back_slot()`."""
        with self._keys.budget(self._key, self._weight) as budget:
            budget.give_back_slot()

    def take_back(self, costs: Amounts) -> None:
        """As `LocalBudget.take_back()`."""
        with self._keys.budget(self._key, self._weight) as budget:
            budget.take_back(costs)

    def heard(self, *, error: bool) -> None:
        """As `LocalBudget.heard()`."""
        with self._keys.budget(self._key, self._weight) as budget:
            budget.heard(error=error)

    def pause(self, seconds: float, *, asked: bool = False) -> None:
        """As `LocalBudget.pause()`."""
        with self._keys.budget(self._key, self._weight) as budget:
            budget.pause(seconds, asked=asked)

    def probe(self) -> int:
        """As `LocalBudget.probe()`."""
        return self._keys.probe(self._key)

    def probe_answered(self, number: int, *, passed: bool) -> None:
        """As `LocalBudget.probe_answered()`."""
        with self._keys.budget(self._key, self._weight) as budget:
            budget.probe_answered(number, passed=passed)

    def resume(self) -> None:
        """As `LocalBudget.resume()`."""
        with self._keys.budget(self._key, self._weight) as budget:
            budget.resume()

    def slow_down(self, pause: float) -> None:
        """As `LocalBudget.slow_down()`."""
        with self._keys.budget(self._key, self._weight) as budget:
            budget.slow_down(pause)

    def learn(self, available: Mapping[str, float], shares: Mapping[str, float]) -> None:
        """As `LocalBudget.learn()`."""
        with self._keys.budget(self._key, self._weight) as budget:
            budget.learn(available, shares)

    def view(self) -> LocalBudget:
        """As `LocalBudget.view()`."""
        return self._keys.look(self._key, self._weight)
