"""Read what servers say of their limits and what is left of them, in the dialects they speak.

Pure text to values. A header that is missing or cannot be read is taken as not said.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from greenkit.errors import ConfigError
from greenkit.responses import number_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from greenkit.limits._gcra import Rule, Rules
    from greenkit.limits._rates import Rate

    Reader = Callable[[Mapping[str, Any]], Mapping[str, "Quota"]]

__all__ = ["Quota", "meant", "reader_of"]

_MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class Quota:
    """Hold what a server says of one dimension.

    Attributes:
        limit: Units per `period`, or None when it does not say.
        remaining: Units left just now, or None.
        period: Seconds, or None when it is not known what the limit is for.
    """

    limit: float | None = None
    remaining: float | None = None
    period: float | None = None

    def share_of(self, rate: Rate) -> float | None:
        """Return the server's limit as a share of a rate of ours, or None when it cannot be told.

        Switches: never.
        """
        if self.limit is None or self.period is None:
            return None
        return self.limit / self.period / (rate.amount / rate.period)


def meant(quotas: Mapping[str, Quota], rules: Rules) -> Iterator[tuple[Quota, Rule]]:
    """Yield what a server says with the rule it says that of.

    Of several windows of a dimension a server tells one and does not say which (`x-ratelimit-limit-requests`
    is by the minute at OpenAI, and by the day at Groq): the one whose amount is nearest to the limit. Where
    no limit is said, it is the one whose period the dialect means.
    """
    for name, quota in quotas.items():
        windows = [rule for rule in rules.rules if rule.dimension == name]
        if len(windows) > 1:
            rule = _window(quota, windows)
            yield Quota(quota.limit, quota.remaining, rule.rate.period), rule
        elif windows:
            yield quota, windows[0]


def _window(quota: Quota, windows: list[Rule]) -> Rule:
    limit = quota.limit
    if limit:
        return min(windows, key=lambda rule: abs(math.log(rule.rate.amount / limit)))
    return next((rule for rule in windows if rule.rate.period == quota.period), windows[0])


def reader_of(feedback: str | Reader | None) -> Reader:
    """Return the function that reads a server's headers, names in lower case, into quotas by dimension.

    Args:
        feedback: "openai", "anthropic", "generic", a function of your own, or None for nothing.

    Raises:
        ConfigError: There is no such dialect.
    """
    if feedback is None:
        return _nothing
    if callable(feedback):
        return feedback
    try:
        return _DIALECTS[feedback]
    except KeyError:
        msg = f"feedback must be one of {', '.join(map(repr, _DIALECTS))}, or a function, not {feedback!r}"
        raise ConfigError(msg) from None


def _nothing(headers: Mapping[str, Any]) -> Mapping[str, Quota]:
    return {}


def _openai(headers: Mapping[str, Any]) -> Mapping[str, Quota]:
    return _spelt(headers, "x-ratelimit-{field}-{name}", ("requests", "tokens"))


def _anthropic(headers: Mapping[str, Any]) -> Mapping[str, Quota]:
    names = ("requests", "tokens", "input-tokens", "output-tokens")
    return _spelt(headers, "anthropic-ratelimit-{name}-{field}", names)


def _generic(headers: Mapping[str, Any]) -> Mapping[str, Quota]:
    """Read `RateLimit(-Policy)` of the IETF httpapi draft, else `(X-)RateLimit-Limit` and `-Remaining`."""
    said, policy = str(headers.get("ratelimit", "")), str(headers.get("ratelimit-policy", ""))
    limit, remaining, period = _part(policy, "q"), _part(said, "r"), _part(policy, "w")
    for prefix in ("ratelimit", "x-ratelimit"):
        limit = _first(limit, _number(headers, f"{prefix}-limit"))
        remaining = _first(remaining, _number(headers, f"{prefix}-remaining"))
    return _kept({"requests": Quota(limit, remaining, period or None)})


_DIALECTS: dict[str, Reader] = {"openai": _openai, "anthropic": _anthropic, "generic": _generic}


def _spelt(headers: Mapping[str, Any], spelling: str, names: tuple[str, ...]) -> Mapping[str, Quota]:
    found = {}
    for name in names:
        limit, remaining = (
            _number(headers, spelling.format(name=name, field=field)) for field in ("limit", "remaining")
        )
        found[name.replace("-", "_")] = Quota(limit, remaining, _MINUTE)
    return _kept(found)


def _kept(found: dict[str, Quota]) -> Mapping[str, Quota]:
    return {name: quota for name, quota in found.items() if (quota.limit, quota.remaining) != (None, None)}


def _part(text: str, letter: str) -> float | None:
    """Return the parameter `letter` of the first item: `"default";r=50;t=30`."""
    match = re.search(rf";\s*{letter}\s*=\s*(\d+)", text.partition(",")[0])
    return float(match.group(1)) if match else None


def _first(one: float | None, other: float | None) -> float | None:
    return other if one is None else one


def _number(headers: Mapping[str, Any], name: str) -> float | None:
    """Return the number a header holds, unless no limit could be it."""
    number = number_in(str(headers.get(name, "")))
    return number if number is not None and 0 <= number < math.inf else None
