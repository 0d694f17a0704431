"""One permit from two limiters, such as from a tenant's key and from the whole: from both or from neither."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from greenkit.limits._base import BaseLimiter, Terms
from greenkit.limits._queue import NORMAL

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from greenkit.limits._gcra import Amounts, Rule
    from greenkit.limits._local import LocalBudget

__all__ = ["Nestable", "Nested", "NestedBudget"]


class Part:
    """One of the two limiters, and where its costs stand among those of both.

    Attributes:
        limiter: As given.
        names: Of its dimensions.
    """

    __slots__ = ("_all", "limiter", "names")

    def __init__(self, limiter: BaseLimiter, names: tuple[str, ...]) -> None:
        self.limiter = limiter
        self.names = limiter.dimensions
        self._all = names

    @property
    def budget(self) -> Any:
        """Return its budget: a key's is looked up each time."""
        return self.limiter._budget

    def of(self, costs: Amounts) -> Amounts:
        """Return its part of the costs of both, once for each window of a dimension."""
        return self.limiter._terms.rules.in_order(dict(zip(self._all, costs, strict=True)))

    def by_name(self, costs: Amounts) -> dict[str, float]:
        """Return its own costs by the names of their dimensions."""
        return self.limiter._terms.rules.by_dimension(costs)

    def named(self, costs: Mapping[str, Any]) -> dict[str, Any]:
        """Return what has the name of one of its dimensions."""
        return {name: value for name, value in costs.items() if name in self.names}


class BothRules:
    """The dimensions of both, as `Rules` shows them to a limiter.

    Attributes:
        names: Of the inner ones, then of those only the outer has.
        dimensions: The same.
    """

    __slots__ = ("_heard", "_inner", "_outer", "dimensions", "names")

    def __init__(self, inner: BaseLimiter, outer: BaseLimiter, heard: BaseLimiter) -> None:
        self.names = self.dimensions = tuple(dict.fromkeys((*inner.dimensions, *outer.dimensions)))
        self._inner = Part(inner, self.names)
        self._outer = Part(outer, self.names)
        self._heard = heard

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Return those a server's headers are about."""
        return self._heard._terms.rules.rules

    def price(self, costs: Mapping[str, float]) -> Amounts:
        """As `Rules.price()`; a cost has to pass both."""
        unknown = costs.keys() - set(self.names)
        if unknown:
            has = ", ".join(self.names) or "none"
            msg = f"no dimension named {min(unknown)!r}; these two limiters have {has}"
            raise TypeError(msg)
        priced: dict[str, float] = {}
        for part in (self._inner, self._outer):
            priced.update(part.by_name(part.limiter._terms.price(part.named(costs))))
        return self.in_order(priced)

    def in_order(self, costs: Mapping[str, float]) -> Amounts:
        """As `Rules.in_order()`."""
        return tuple([costs[name] for name in self.names])

    def by_dimension(self, amounts: Amounts) -> dict[str, float]:
        """As `Rules.by_dimension()`."""
        return dict(zip(self.names, amounts, strict=True))


class NestedBudget:
    """Take from the inner budget, then from the outer; see `LocalBudget` for what each method promises."""

    __slots__ = ("_heard", "_inner", "_now", "_outer")

    def __init__(self, inner: Part, outer: Part, heard: Part) -> None:
        self._inner = inner
        self._outer = outer
        self._heard = heard
        self._now = outer.limiter.clock.now

    def take_nowait(self, costs: Amounts) -> float:
        """As `LocalBudget.take_nowait()`."""
        return self._both(costs, lambda part: part.limiter._take_nowait(part.of(costs)))

    def try_take(self, costs: Amounts) -> float:
        """As `LocalBudget.try_take()`."""
        return self._both(costs, lambda part: part.limiter._try_take(part.of(costs)))

    def take(self, costs: Amounts, *, lane: int, until: float) -> None:
        """As `LocalBudget.take()`: waits for the inner first, which holds nobody else of the outer up."""
        inner, outer = self._inner, self._outer
        if until < math.inf and self._now() + outer.budget.eta(outer.of(costs), lane=lane) > until:
            # The outer cannot grant in time, and raises; if it can after all, the inner is still first.
            outer.budget.take(outer.of(costs), lane=lane, until=until)
            outer.budget.take_back(outer.of(costs))
        inner.budget.take(inner.of(costs), lane=lane, until=until)
        try:
            outer.budget.take(outer.of(costs), lane=lane, until=until)
        except BaseException:  # a kill, too
            inner.budget.take_back(inner.of(costs))
            raise

    def take_back(self, costs: Amounts) -> None:
        """As `LocalBudget.take_back()`."""
        self._inner.budget.take_back(self._inner.of(costs))
        self._outer.budget.take_back(self._outer.of(costs))

    def settle(self, before: Amounts, costs: Mapping[str, float]) -> Amounts:
        """As `LocalBudget.settle()`."""
        inner, outer = self._inner, self._outer
        names = self._names
        unknown = costs.keys() - set(names)
        if unknown:
            msg = f"no dimension named {min(unknown)!r}; these two limiters have {', '.join(names) or 'none'}"
            raise TypeError(msg)
        after = dict(zip(names, before, strict=True))
        for part in (inner, outer):
            settled = part.budget.settle(part.of(before), part.named(costs))
            after.update(part.by_name(settled))
        return tuple(after.values())

    def eta(self, costs: Amounts, *, lane: int = NORMAL) -> float:
        """As `LocalBudget.eta()`."""
        etas = [part.budget.eta(part.of(costs), lane=lane) for part in (self._inner, self._outer)]
        return float(max(etas))

    def give_back_slot(self) -> None:
        """As `LocalBudget.give_back_slot()`."""
        self._inner.budget.give_back_slot()
        self._outer.budget.give_back_slot()

    def heard(self, *, error: bool) -> None:
        """As `LocalBudget.heard()`."""
        self._heard.budget.heard(error=error)

    def probe(self) -> tuple[Any, Any] | int:
        """As `LocalBudget.probe()`, of both."""
        probes = (self._inner.budget.probe(), self._outer.budget.probe())
        return probes if any(probes) else 0

    def probe_answered(self, number: Any, *, passed: bool) -> None:
        """As `LocalBudget.probe_answered()`."""
        for part, probe in zip((self._inner, self._outer), number, strict=True):
            if probe:
                part.budget.probe_answered(probe, passed=passed)

    def pause(self, seconds: float, *, asked: bool = False) -> None:
        """As `LocalBudget.pause()`."""
        self._heard.budget.pause(seconds, asked=asked)

    def resume(self) -> None:
        """As `LocalBudget.resume()`."""
        self._heard.budget.resume()

    def slow_down(self, pause: float) -> None:
        """As `LocalBudget.slow_down()`."""
        self._heard.budget.slow_down(pause)

    def learn(self, available: Mapping[str, float], shares: Mapping[str, float]) -> None:
        """As `LocalBudget.learn()`."""
        self._heard.budget.learn(available, shares)

    def view(self) -> LocalBudget:
        """As `LocalBudget.view()`, of the one that hears the server."""
        return self._heard.budget.view()  # type: ignore[no-any-return] # a LocalBudget, whichever it is of

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self._inner.names, *self._outer.names)))

    def _both(self, costs: Amounts, take: Callable[[Part], float]) -> float:
        wait = take(self._inner)
        if wait:
            return wait
        try:
            wait = take(self._outer)
        except BaseException:  # killed while a shared one was asked
            self._inner.budget.take_back(self._inner.of(costs))
            raise
        if wait:
            self._inner.budget.take_back(self._inner.of(costs))
        return wait


class Nestable(BaseLimiter):
    """Be a limiter that may be inside another: a `Limiter`, its keys, and those that are already."""

    __slots__ = ()

    def inside(self, outer: BaseLimiter, *, feedback: Literal["outer", "inner"] = "outer") -> BaseLimiter:
        """Return a limiter whose permits are taken from this one and from `outer`: from both or neither.

        A caller waits for this one first, such as for the turn of its key, and then for `outer`. Refused,
        killed or out of time it has taken nothing of either. What a permit settles counts in both, as far as
        they have the dimension. May be nested further.

        Args:
            outer: The whole, such as the limiter this is a key of.
            feedback: Which of the two pauses, slows down and learns from what the server says.

        Raises:
            TypeError: They have different clocks, or one of them is a shadow.

        Example:
            with llm.key(tenant, weight=0.1).inside(llm).permit(tokens=900):
                ...

        Switches: never.
        """
        return Nested(self, outer, feedback=feedback)


class Nested(Nestable):
    """Let calls through as two limiters allow; made by `inside()`."""

    __slots__ = ("_budget",)

    _budget: NestedBudget

    def __init__(self, inner: BaseLimiter, outer: BaseLimiter, *, feedback: str) -> None:
        _check(inner, outer, feedback)
        heard = outer if feedback == "outer" else inner
        rules = BothRules(inner, outer, heard)
        parts = {limiter: Part(limiter, rules.names) for limiter in (inner, outer)}
        self._budget = NestedBudget(parts[inner], parts[outer], parts[heard])
        self._terms = terms = Terms(
            heard.name,
            clock=outer.clock,
            read=heard._terms.read,
            retries=outer._terms.retries or inner._terms.retries,
            shadow=False,
            counts_slots=inner._terms.counts_slots or outer._terms.counts_slots,
        )
        terms.learns = True  # estimates may be of either
        terms.by_calendar = inner._terms.by_calendar or outer._terms.by_calendar
        terms.tally = heard._terms.tally
        terms.rules = rules  # type: ignore[assignment] # as much of Rules as a limiter asks for
        terms.free, terms.price, terms.most_tokens = rules.price({}), rules.price, -1

    def __repr__(self) -> str:
        inner, outer = self._budget._inner.limiter, self._budget._outer.limiter
        return f"<{inner!r} inside {outer!r}>"

    def _take_nowait(self, costs: Amounts) -> float:
        return self._budget.take_nowait(costs)

    def _try_take(self, costs: Amounts) -> float:
        return self._budget.try_take(costs)

    def _in_the_way(self, costs: Amounts) -> str:
        inner, outer = self._budget._inner, self._budget._outer
        return inner.limiter._in_the_way(inner.of(costs)) or outer.limiter._in_the_way(outer.of(costs))


def _check(inner: BaseLimiter, outer: BaseLimiter, feedback: str) -> None:
    if not hasattr(outer, "_terms"):
        msg = f"inside() takes a Limiter, or a key of one, not {outer!r}"
        raise TypeError(msg)
    if outer is inner:
        msg = f"{inner!r} is not inside itself: a permit would be charged twice"
        raise TypeError(msg)
    if feedback not in {"outer", "inner"}:
        msg = f'feedback must be "outer" or "inner", not {feedback!r}'
        raise ValueError(msg)
    if inner.clock is not outer.clock:
        msg = f"{inner!r} and {outer!r} have different clocks; one wait cannot be timed by two"
        raise TypeError(msg)
    if inner._terms.shadow or outer._terms.shadow:
        msg = (
            f"{inner!r} inside {outer!r}: a shadow holds nothing back, and half a permit cannot be held back"
        )
        raise TypeError(msg)
