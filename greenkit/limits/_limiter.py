"""The limiter people make: what is limited, how it is set up, and set up anew while it runs.

How it is asked is `_limiter`'s.
"""

from __future__ import annotations

import hashlib
import math
import os
import secrets
from dataclasses import replace
from functools import cache, partial
from itertools import count
from typing import TYPE_CHECKING, Any, Literal, Protocol
from urllib.parse import quote

from greenkit import facts
from greenkit._aimd import AdaptiveSize
from greenkit._clock import MONOTONIC, Clock
from greenkit.errors import ConfigError
from greenkit.limits._base import Terms
from greenkit.limits._feedback import reader_of
from greenkit.limits._gcra import rules_of
from greenkit.limits._keyed import KeyBudget, Keys
from greenkit.limits._local import LocalBudget, LocalState
from greenkit.limits._nested import Nestable
from greenkit.limits._permit import RetryBudget
from greenkit.limits._postgres import PostgresWire, check_driver
from greenkit.limits._rates import shown, windows
from greenkit.limits._redis import RedisWire, client_for
from greenkit.limits._shared_budget import SharedBudget, SharedState
from greenkit.limits._statistics import Estimate
from greenkit.limits._sync import masked

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from greenkit.limits._feedback import Reader
    from greenkit.limits._gcra import Amounts, Rules
    from greenkit.limits._rates import Windows
    from greenkit.limits._statistics import LimiterStatistics

    Concurrency = int | tuple[int, int]
    OnError = Literal["local", "open", "closed"]

    from greenkit._clock import Clock
    from greenkit.limits._sync import Wire

    class MakeBudget(Protocol):
        """Make a budget that lives in one backend."""

        def __call__(
            self, rules: Rules, slots: int | AdaptiveSize | None, *names: Hashable, clock: Clock
        ) -> LocalBudget:
            """Return it; `names` are the limiter's, and the key where it is one's."""


__all__ = ["Limiter", "backend_of", "record_of", "refuse_adaptive"]

# Terms are made again when there are more weights in use than this: a program may compute them.
_MOST_WEIGHTS = 256


class Limiter(Nestable):
    """Let no more through than every one of its dimensions allows, in the order it was asked.

    One limiter is shared by everything that uses the same quota in this process: make it once,
    at module level. Safe from several native threads and after `fork` (each process then has
    the whole budget to itself, unless it is shared).

    Args:
        name: Shown in errors, statistics and metrics.
        requests: Calls, such as `"500/min"`; a permit costs one unless told otherwise. How many may go at
            once follows from the rate, or is said: `"500/min burst 25"`; see `Rate`.
            Several windows are a list: `["500/min", "10_000/day"]`.
        tokens: Whatever else is counted, such as `"90_000/min"`; likewise.
        concurrency: Permits held at once; or `(least, most)` to find out between them how many the
            server likes: one more for every round of successes, a fifth less when it is too busy.
        strict: Never exceed an amount in *any* window of its period. Otherwise a window that
            begins idle may see the burst on top.
        feedback: Whose headers `observe()` understands, and errors that leave a permit's block:
            "openai", "anthropic", "generic", or a function from headers (names in lower case) to
            `Quota`s by dimension. Limits learnt are never above those given here.
        retry_share: How many retries `attempts()` may make per first attempt in the long run, 0 to 1,
            those after a 429 not counted; beyond it a failure is raised. None for as many as there
            is time for.
        shadow: Count what would be held back, and hold nothing back.
        share: Address of a Redis, Valkey or PostgreSQL server, or a client of redis-py (a cluster's, or
            a master found through Sentinel): all processes whose limiters have the same name there
            share one budget.
        on_backend_error: What to do while that server does not answer: "local", keep to this process's
            share of the rates, beginning without a burst; "open", let everything through; "closed",
            nothing. Decided within 0.3 s.
        processes: How many processes share the limit at the least. "local" keeps to that share of the
            rates where fewer have been heard of: without it, a process that never reached the server takes
            itself for the only one and keeps to the whole rate.
        clock: Where time comes from.
        others: Further dimensions by name.

    Raises:
        ConfigError: A limit cannot be read, or strict leaves nothing of it.
        TypeError: There is nothing to limit, or a dimension has a name that is an option's, or that is nearly
            that of another.

    Example:
        llm = Limiter("openai", requests="500/min", tokens="90_000/min burst 9_000", concurrency=64)
    """

    __slots__ = (
        "_budget",
        "_concurrency",
        "_keys",
        "_make",
        "_rates",
        "_strict",
        "_take_nowait",
        "_try_take",
        "_weights",
    )

    _budget: LocalBudget
    _take_nowait: Callable[[Amounts], float]
    _try_take: Callable[[Amounts], float]

    def __init__(
        self,
        name: str,
        *,
        requests: Windows | None = None,
        tokens: Windows | None = None,
        concurrency: Concurrency | None = None,
        strict: bool = False,
        feedback: str | Reader | None = None,
        retry_share: float | None = None,
        shadow: bool = False,
        share: Any = None,
        on_backend_error: OnError = "local",
        processes: int | None = None,
        clock: Clock = MONOTONIC,
        **others: Windows,
    ) -> None:
        given = {"requests": requests, "tokens": tokens, **others}
        self._strict = strict
        self._rates = {
            dimension: windows(dimension, rates) for dimension, rates in given.items() if rates is not None
        }
        self._concurrency = concurrency
        if not self._rates and concurrency is None:
            msg = f'Limiter({name!r}) limits nothing; give requests="500/min", concurrency=64, or both'
            raise TypeError(msg)
        self._terms = Terms(
            name,
            clock=clock,
            read=reader_of(feedback),
            retries=None if retry_share is None else RetryBudget(retry_share),
            shadow=shadow,
            counts_slots=concurrency is not None,
        )
        self._keys: Keys | None = None
        self._weights: dict[float, Terms] = {}
        many = _processes(processes, shared=share is not None)
        self._make = (
            _local_budget if share is None else backend_of(share, on_error=on_backend_error, processes=many)
        )
        rules = rules_of(self._rates, strict=strict, clock=clock)
        made = self._make(rules, _slots(concurrency), name, clock=clock)
        self._stand_on(made, rules)
        facts.register("limiter", self)

    def __repr__(self) -> str:
        rates = ", ".join(
            f"{rule.dimension} {rule.rate} burst {shown(rule.burst)}" for rule in self._terms.rules.rules
        )
        seen = self.statistics()
        held = f", {seen.in_use}/{seen.concurrency} held" if seen.concurrency is not None else ""
        pace = f", at {seen.pace:.0%}" if seen.pace < 1 else ""
        pause = f", paused for {seen.paused_for:.3g} s" if seen.paused_for else ""
        shadow = ", a shadow" if self._terms.shadow else ""
        state = f"{held}, {seen.waiting} waiting{pace}{pause}{shadow}"
        return f"<Limiter {self.name!r} {rates or 'any rate'}{state}>"

    def key(self, key: Hashable, *, weight: float = 1.0) -> Nestable:
        """Return a limiter for `key` alone: of the same limits, and with a budget of its own.

        Cheap to make, so ask for it each time. A key whose budget is full again is forgotten.

        Args:
            key: Whatever is limited one by one, such as a user's id; a shared limiter goes by its
                `str()`.
            weight: How many times the limits this key has: 0.1 for a tenth of every rate, burst and
                `concurrency`, of which at least one unit stays. Said anew it holds from then on.

        Raises:
            ValueError: `weight` is not above 0.

        Example:
            refusal = api.key(request.user.pk, weight=2.0 if request.user.pays else 1.0).try_permit()
            with llm.key(tenant, weight=0.1).inside(llm).permit(tokens=900):
                ...

        Switches: never.
        """
        keys = self._keys
        if keys is None:
            keys = self._make_keys()
        limiter = KeyLimiter()
        limiter._terms = self._terms if weight == 1.0 else self._weighed(weight)
        limiter._keys = keys
        limiter._key = key
        limiter._weight = weight
        return limiter

    def statistics(self) -> LimiterStatistics:
        """Return a frozen account of this instant; permits, waiters and slots include those of keys.

        Switches: never.
        """
        seen = super().statistics()
        if self._keys is None:
            return seen
        live = self._keys.live
        return replace(
            seen,
            granted=seen.granted + self._keys.granted + sum(budget.state.granted for budget in live),
            waiting=seen.waiting + sum(budget.queue.waiting for budget in live),
            in_use=seen.in_use + sum(budget.state.held for budget in live),
            keys=len(self._keys),
        )

    def _make_keys(self) -> Keys:
        with self._budget.lock:  # two threads may come to the first key at once
            if self._keys is None:
                local = not isinstance(self._budget, SharedBudget)
                plain = local and self._concurrency is None
                self._keys = Keys(
                    self._terms.rules,
                    clock=self.clock,
                    make=self._budget_of,
                    rules_of=self._rules_of,
                    slots_of=self._slots_of,
                    local=local,
                    plain=plain,
                )
            return self._keys

    def _budget_of(self, key: Hashable, weight: float) -> LocalBudget:
        return self._make(
            self._rules_of(weight),
            self._slots_of(weight),
            self._terms.name,
            key,
            clock=self._terms.clock,
        )

    def _weighed(self, weight: float) -> Terms:
        """Return the terms of keys of a weight; made once for each weight in use."""
        terms = self._weights.get(weight)
        if terms is None:
            _check_weight(weight)
            if len(self._weights) >= _MOST_WEIGHTS:
                self._weights.clear()
            terms = self._weights[weight] = self._terms.under(self._terms.rules.times(weight))
        return terms

    def _rules_of(self, weight: float) -> Rules:
        return self._terms.rules if weight == 1.0 else self._weighed(weight).rules

    def _slots_of(self, weight: float) -> int | AdaptiveSize | None:
        return _slots(_times(self._concurrency, weight))

    def estimate(self, first: float, *, most: float = float("inf")) -> Estimate:
        """Return an estimate that learns from `settle()` what calls cost.

        Args:
            first: The answer before anything was learnt.
            most: Never more, such as the `max_tokens` of the requests.

        Example:
            answer = llm.estimate(500, most=4096)
            with llm.permit(tokens=answer.guess(prompt_tokens)) as permit:
                reply = ask()
                permit.settle(tokens=reply.usage.total_tokens)
        """
        for terms in (self._terms, *self._weights.values()):
            terms.learns = True
        return Estimate(first, most=most)

    def configure(self, *, concurrency: Concurrency | None = None, **rates: Windows) -> None:
        """Change limits while they are in use; what is not named stays.

        What is out counts against the new limits, those in the queue are timed anew at once, and those
        whose cost can never pass any more get `CostTooHighError`.

        Raises:
            ConfigError: A limit cannot be read, or a shared limiter is given adaptive concurrency.
            TypeError: A name is no dimension of this limiter, a dimension would have more windows or fewer,
                or it was made without concurrency.

        Switches: never.
        """
        unknown = rates.keys() - self._rates.keys()
        if unknown or (concurrency is not None and self._concurrency is None):
            what = ", ".join(sorted(unknown)) or "concurrency"
            msg = (
                f"{self!r} does not limit {what}, and permits that are out were not counted; "
                "make a new Limiter"
            )
            raise TypeError(msg)
        merged = {**self._rates, **{dimension: windows(dimension, new) for dimension, new in rates.items()}}
        rules = rules_of(merged, strict=self._strict, clock=self.clock)
        if _kinds(rules) != _kinds(self._terms.rules):
            msg = (
                f"{self!r} cannot have more windows of a dimension, or fewer, than it was made with: permits "
                "that are out were not counted in them; make a new Limiter"
            )
            raise TypeError(msg)
        slots = self._budget.state.slots if concurrency is None else _slots(concurrency)
        if isinstance(self._budget, SharedBudget):
            refuse_adaptive(slots)
        self._rates = merged
        if concurrency is not None:
            self._concurrency = concurrency
        self._budget.configure(rules, slots)
        self._stand_on(self._budget, rules)
        if self._keys is not None:
            self._keys.configure(rules, slots=concurrency is not None)

    def _stand_on(self, budget: LocalBudget, rules: Rules) -> None:
        """Look up once what runs on every permit."""
        self._terms.follow(rules)
        for weight, terms in self._weights.items():
            terms.follow(rules.times(weight))
        self._budget = budget
        self._try_take = budget.try_take
        # A shadow never waits, so it must ask.
        self._take_nowait = self._try_take if self._terms.shadow else budget.take_nowait


class KeyLimiter(Nestable):
    """Let calls through as the budget of one key allows; made for each call of `Limiter.key()`."""

    __slots__ = ("_key", "_keys", "_weight")

    _key: Hashable
    _keys: Keys
    _weight: float

    def __repr__(self) -> str:
        weight = "" if self._weight == 1.0 else f", weight {self._weight:g}"
        return f"<key {self._key!r} of limiter {self.name!r}{weight}>"

    @property
    def _budget(self) -> KeyBudget:
        return KeyBudget(self._keys, self._key, self._weight)

    def _take_nowait(self, costs: Amounts) -> float:
        if self._terms.shadow:  # which never waits, so it must ask
            return self._try_take(costs)
        return self._keys.take_nowait(self._key, self._weight, costs)

    def _try_take(self, costs: Amounts) -> float:
        if self._keys.plain:
            return self._keys.take_nowait(self._key, self._weight, costs)
        return self._budget.try_take(costs)


def _local_budget(
    rules: Rules, slots: int | AdaptiveSize | None, *names: Hashable, clock: Clock
) -> LocalBudget:
    return LocalBudget(LocalState(rules, slots), clock=clock, name=":".join(map(str, names)))


def _kinds(rules: Rules) -> list[tuple[str, bool]]:
    return [(rule.dimension, rule.window is not None) for rule in rules.rules]


def _processes(processes: int | None, *, shared: bool) -> int:
    if processes is None:
        return 1
    if not shared:
        msg = f"processes={processes!r} says who shares a limit; give share= too, or leave it out"
        raise TypeError(msg)
    if isinstance(processes, bool) or not isinstance(processes, int) or processes < 1:
        msg = f"processes must be a whole number of processes, at least 1, not {processes!r}"
        raise ValueError(msg)
    return processes


def _times(concurrency: Concurrency | None, weight: float) -> Concurrency | None:
    if concurrency is None:
        return None
    if isinstance(concurrency, tuple):
        least, most = (max(1, round(bound * weight)) for bound in concurrency)
        return least, most
    return max(1, round(concurrency * weight))


def _check_weight(weight: float) -> None:
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        msg = f"weight is a number, not {weight!r}"
        raise TypeError(msg)
    if not 0 < weight < math.inf:
        msg = f"weight says how many times the limits a key has: above 0, not {weight!r}"
        raise ValueError(msg)


def _slots(concurrency: Concurrency | None) -> int | AdaptiveSize | None:
    if isinstance(concurrency, tuple):
        least, most = concurrency
        if not 1 <= least <= most:
            msg = f"concurrency must be (least, most) with 1 <= least <= most, not {concurrency!r}"
            raise ValueError(msg)
        return AdaptiveSize(least, most)
    if concurrency is not None and concurrency < 1:
        msg = f"concurrency must be at least 1, not {concurrency!r}: nothing could ever run"
        raise ValueError(msg)
    return concurrency


# Two limiters of one name in one process have their own parts of its budget.
_serials = count()
_LONGEST_NAME = 300
_REDIS = frozenset({"redis", "rediss", "valkey", "valkeys", "unix"})
_POSTGRES = frozenset({"postgres", "postgresql"})


def record_of(name: Hashable, *key: Hashable) -> str:
    """Return the name in a shared store of the limiter `name`, or of its `key`.

    Two different ones have different records: what separates name and key is escaped within them.
    """
    return ":".join(_escaped(str(part)) for part in (name, *key))


def _escaped(text: str) -> str:
    plain = quote(text, safe=" !$&'()*+,/;=@", errors="surrogatepass")
    if len(plain) <= _LONGEST_NAME:
        return plain
    # An index of PostgreSQL takes no more than a third of a page. "#" is in no other name.
    return f"{plain[:100]}#{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()}"


def backend_of(share: Any, *, on_error: str, processes: int = 1) -> MakeBudget:
    """Return what makes budgets that live at `share`; nothing is connected yet.

    Raises:
        ConfigError: `share` is no address, its package is missing, or `on_error` is no such thing.
    """
    if on_error not in {"local", "open", "closed"}:
        msg = f'on_backend_error must be "local", "open" or "closed", not {on_error!r}'
        raise ConfigError(msg)
    # One for the limiter and all its keys: a key whose budget is made anew is still the same process.
    worker = partial(_worker, next(_serials))
    if hasattr(share, "evalsha"):
        return partial(_budget, worker, processes, id(share), partial(RedisWire, share, own=False), on_error)
    scheme = share.partition("://")[0].lower() if isinstance(share, str) and "://" in share else ""
    if scheme in _REDIS:
        url = share.replace("valkey", "redis", 1) if scheme.startswith("valkey") else share
        client_for(url)  # a wrong address shows now, not in the background
        return partial(_budget, worker, processes, share, partial(_redis, url), on_error)
    if scheme in _POSTGRES:
        check_driver(share)
        return partial(_budget, worker, processes, share, partial(PostgresWire, share), on_error)
    msg = (
        f"share must be the address of a server (redis://, rediss://, unix://, postgresql://) or a client of "
        f"redis-py, not {masked(share)!r}"
    )
    raise ConfigError(msg)


def _redis(url: str) -> Wire:
    return RedisWire(client_for(url), own=True)


def _budget(
    worker: Callable[[], str],
    processes: int,
    backend: object,
    connect: Callable[[], Wire],
    on_error: str,
    rules: Rules,
    slots: int | AdaptiveSize | None,
    *names: Hashable,
    clock: Clock,
) -> SharedBudget:
    whole = refuse_adaptive(slots)
    state = SharedState(rules, whole, worker=worker, on_error=on_error, processes=processes)
    name = ":".join(map(str, names))
    record = record_of(*names)
    return SharedBudget(state, clock=clock, name=name, record=record, backend=backend, connect=connect)


def refuse_adaptive(slots: int | AdaptiveSize | None) -> int | None:
    """Return `slots`, but refuse those whose number each process would find alone.

    Raises:
        ConfigError: They are such.
    """
    if isinstance(slots, AdaptiveSize):
        msg = "adaptive concurrency is found by each process alone; with share= give concurrency a number"
        raise ConfigError(msg)
    return slots


def _worker(serial: int) -> str:
    return f"{_worker_of(os.getpid())}-{serial}"


@cache
def _worker_of(pid: int) -> str:
    """Name a process; its number alone is another's in the next container."""
    return f"{pid}-{secrets.token_hex(4)}"
