"""Say what a limiter counted, and what a call will cost: learnt from calls, or by a table of prices.

Pure arithmetic. greenkit knows no prices: they change, and differ by contract.
"""

from __future__ import annotations

import bisect
import math
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from greenkit.errors import ConfigError
from greenkit.limits._queue import Waits

__all__ = ["Estimate", "Guess", "LimiterStatistics", "Price", "Prices", "Tally"]


@dataclass(frozen=True, slots=True)
class LimiterStatistics:
    """Show a limiter at one instant; counts are since it was made.

    Attributes:
        granted: Permits given, those of its keys included.
        refused: `try_permit()` and `call()` answered "not now".
        timed_out: Waits ended by `LimitTimeout`.
        rejected: Times the server said 429.
        shadowed: Permits a limiter with `shadow=True` let through that it would have held back.
        waiting: Greenlets in line now, for the rate or for a slot.
        in_use: Permits held now; 0 when there is no `concurrency` to count them by.
        concurrency: Permits that may be held at once, or None.
        wait_p50: Half of the permits waited no longer (seconds; permits that did not wait count).
        wait_p95: 95 % of the permits waited no longer.
        wait_max: The longest wait.
        paused_for: Seconds until the pause in force ends; 0.0 when there is none.
        pace: Share of the configured rate used now: less than 1 for a while after 429s.
        available: Units that could go now, by dimension, the least of its windows; negative while in debt.
        keys: Keys remembered: those whose budget is not full, and those in use.
        backend: "local" for a limiter of its own; of a shared one "shared", or what it does while the
            backend is away: "local", "open", "closed".
        windows: Units that could go now, by window, such as `{"requests 500/min": 1.0}`.
    """

    granted: int
    refused: int
    timed_out: int
    rejected: int
    shadowed: int
    waiting: int
    in_use: int
    concurrency: int | None
    wait_p50: float
    wait_p95: float
    wait_max: float
    paused_for: float
    pace: float
    available: dict[str, float]
    keys: int
    backend: str
    windows: dict[str, float]


class Tally:
    """Count what happened to the permits of one limiter and all its keys.

    Attributes:
        waits: How long those that waited did.
        refused: As in `LimiterStatistics`, and so are the others.
    """

    __slots__ = ("refused", "rejected", "shadowed", "timed_out", "waits")

    def __init__(self) -> None:
        self.waits = Waits()
        self.refused = self.timed_out = self.rejected = self.shadowed = 0


class Guess(float):
    """Be a cost that remembers which estimate it came from, so that `settle()` can teach it."""

    __slots__ = ("_estimate", "_known")

    _estimate: Estimate
    _known: float

    def __new__(cls, value: float, estimate: Estimate, known: float) -> Guess:
        """Return `value` as a cost, of which `known` was no guess."""
        guess = super().__new__(cls, value)
        guess._estimate = estimate
        guess._known = known
        return guess

    def teach(self, real: float) -> None:
        """Tell the estimate what the call cost in the end.

        Switches: never.
        """
        self._estimate.learn(real - self._known)


class Estimate:
    """Answer with what nine of ten recent calls did not exceed; made by `Limiter.estimate()`.

    Args:
        first: The answer before anything was learnt, and one vote among the first learnt.
        most: Never more, such as the `max_tokens` of the request.
        share: Which share of recent calls the answer covers.
        memory: How many calls are recent.
    """

    __slots__ = ("_first", "_most", "_ordered", "_recent", "_share")

    def __init__(
        self, first: float, *, most: float = math.inf, share: float = 0.9, memory: int = 200
    ) -> None:
        if not 0 <= first <= most:
            msg = f"first must be between 0 and most={most:g}, not {first!r}"
            raise ValueError(msg)
        if not 0 < share <= 1 or memory < 1:
            msg = f"share must be in (0, 1] and memory at least 1, not {share!r} and {memory!r}"
            raise ValueError(msg)
        self._most = most
        self._share = share
        self._first = first
        self._recent: deque[float] = deque(maxlen=memory)
        self._ordered: list[float] = []

    def __repr__(self) -> str:
        return f"<Estimate {self.value:g} from {len(self._recent)} calls>"

    @property
    def value(self) -> float:
        """Return the estimate as of now."""
        if not self._ordered:
            return self._first
        rank = math.ceil(self._share * len(self._ordered)) - 1
        return min(self._most, self._ordered[rank])

    def guess(self, known: float = 0.0) -> Guess:
        """Return a cost for a permit: the estimate, and what is `known` of this call already.

        Example:
            with llm.permit(tokens=output.guess(prompt_tokens)) as permit:
                reply = ask()
                permit.settle(tokens=reply.usage.total_tokens)

        Switches: never.
        """
        return Guess(known + self.value, self, known)

    def learn(self, real: float) -> None:
        """Take in what a call cost beyond what was known of it; `settle()` does this for a guess.

        Switches: never.
        """
        real = max(0.0, real)
        if len(self._recent) == self._recent.maxlen:
            del self._ordered[bisect.bisect_left(self._ordered, self._recent[0])]
        self._recent.append(real)
        bisect.insort(self._ordered, real)


# What providers put behind the name of a model: "gpt-x-2026-01-31", "claude-x-20260131", "model-latest".
_VERSION = re.compile(r"(?:[-@](?:\d{4}-\d\d-\d\d|\d{8}|\d{4}|latest))\Z")


@dataclass(frozen=True, slots=True)
class Price:
    """Hold what a model costs per million tokens (`Prices` may say per how many).

    Attributes:
        input: Of the prompt.
        output: Of the answer, its reasoning included.
        cached_input: Of what of the prompt came from the provider's cache; as `input` when not said.
        cache_write: Of what of the prompt was written to that cache; as `input` when not said.
        request: Of a call whatever its size.

    Raises:
        ConfigError: A price is negative or no number.
    """

    input: float
    output: float = 0.0
    cached_input: float | None = None
    cache_write: float | None = None
    request: float = 0.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            price = getattr(self, name)
            if price is None:
                continue
            try:
                number = float(price)  # a Decimal, too
            except (TypeError, ValueError):
                number = math.nan
            if not 0 <= number < math.inf:
                msg = f"{name} is a price, 0 or more, not {price!r}"
                raise ConfigError(msg)
            object.__setattr__(self, name, number)


class Prices:
    """Turn tokens into money, for a dimension such as `cost="$20/day from 00:00 UTC"`.

    Args:
        table: A `Price` for each model, by name. One that ends in a date is found by the name before it.
        per: Tokens the prices are for.

    Raises:
        ConfigError: The table is empty, or has something that is no price.

    Example:
        prices = Prices({"gpt-x": Price(input=2.50, output=10.00, cached_input=0.25)})
        with llm.permit(cost=prices.estimate("gpt-x", input=1_200, output=400)) as permit:
            reply = ask()
            permit.settle(cost=prices.of("gpt-x", reply.usage))
    """

    __slots__ = ("_per", "_table")

    def __init__(self, table: Mapping[str, Price], *, per: float = 1_000_000) -> None:
        if not table:
            msg = 'Prices() needs at least one model, such as {"gpt-x": Price(input=2.5, output=10)}'
            raise ConfigError(msg)
        wrong = next((price for price in table.values() if not isinstance(price, Price)), None)
        if wrong is not None:
            msg = f"{wrong!r} is no Price; write Price(input=2.5, output=10)"
            raise ConfigError(msg)
        if not 0 < per < math.inf:
            msg = f"per is the number of tokens prices are for, more than 0, not {per!r}"
            raise ConfigError(msg)
        self._table = dict(table)
        self._per = per

    def __repr__(self) -> str:
        return f"<Prices of {', '.join(self._table)} per {self._per:g} tokens>"

    def price(self, model: str) -> Price:
        """Return the price of `model`.

        Raises:
            ConfigError: There is none; an estimate of 0 would let everything through.

        Switches: never.
        """
        found = self._table.get(model) or self._table.get(_VERSION.sub("", model))
        if found is None:
            msg = f"no price for {model!r}; this table has {', '.join(self._table)}; add it"
            raise ConfigError(msg)
        return found

    def estimate(
        self,
        model: str,
        *,
        input: float = 0,  # noqa: A002 - the word of every price list
        output: float = 0,
        cached_input: float = 0,
        cache_write: float = 0,
    ) -> float:
        """Return what a call would cost.

        Args:
            model: Its name.
            input: Tokens of the prompt that are neither read from a cache nor written to one.
            output: Tokens of the answer, such as the `max_tokens` asked for.
            cached_input: Tokens of the prompt from the provider's cache.
            cache_write: Tokens of the prompt written to it.

        Raises:
            ConfigError: There is no price for the model.

        Switches: never.
        """
        price = self.price(model)
        cached = price.input if price.cached_input is None else price.cached_input
        write = price.input if price.cache_write is None else price.cache_write
        parts = (input * price.input, output * price.output, cached_input * cached, cache_write * write)
        return price.request + math.fsum(parts) / self._per

    def of(self, model: str, usage: Any) -> float:
        """Return what a call cost by the usage its answer reports.

        Args:
            model: Its name; the answer's own (`reply.model`) will do.
            usage: Of OpenAI (chat or responses), Anthropic or Gemini, or of who answers as they do: the SDK's
                object, or what the JSON holds.

        Raises:
            ConfigError: There is no price for the model.
            ValueError: The usage tells no tokens; the estimate then stands.

        Switches: never.
        """
        said = _tokens_in(usage)
        if said is None:
            msg = f"{usage!r:.200} tells no tokens; leave settle() out, and what was estimated stands"
            raise ValueError(msg)
        return self.estimate(model, **said)


def _tokens_in(usage: Any) -> dict[str, float] | None:
    """Return the tokens of a usage as `estimate()` takes them, or None when it tells none."""
    prompt, answer = _number(usage, "prompt_tokens"), _number(usage, "completion_tokens")
    if prompt is None and answer is None:
        prompt, answer = _number(usage, "input_tokens"), _number(usage, "output_tokens")
    read, write = _number(usage, "cache_read_input_tokens"), _number(usage, "cache_creation_input_tokens")
    if read is not None or write is not None:  # Anthropic's input tokens are those outside the cache
        return {
            "input": prompt or 0, "output": answer or 0, "cached_input": read or 0, "cache_write": write or 0,
        }  # fmt: skip
    cached = None
    for details in ("prompt_tokens_details", "input_tokens_details"):
        cached = _number(_part(usage, details), "cached_tokens") if cached is None else cached
    if (
        prompt is None and answer is None
    ):  # Gemini's thoughts are paid as output, and not among the candidates
        prompt, answer = _number(usage, "prompt_token_count"), _number(usage, "candidates_token_count")
        thoughts, cached = (
            _number(usage, "thoughts_token_count"),
            _number(usage, "cached_content_token_count"),
        )
        answer = answer if thoughts is None else (answer or 0) + thoughts
    if prompt is None and answer is None:
        return None
    cached = min(cached or 0, prompt or 0)
    return {"input": (prompt or 0) - cached, "output": answer or 0, "cached_input": cached}


def _part(usage: Any, name: str) -> Any:
    return usage.get(name) if isinstance(usage, Mapping) else getattr(usage, name, None)


def _number(usage: Any, name: str) -> float | None:
    found = _part(usage, name)
    return found if isinstance(found, int | float) and not isinstance(found, bool) and found >= 0 else None
