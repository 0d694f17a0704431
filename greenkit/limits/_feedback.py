"""Judge what a server says: what is left of its limits, and what the end of a call means for ours.

Pure text and errors to values. A header that is missing or cannot be read is taken as not said. What an error
is in general is read by `greenkit.responses`.
"""

from __future__ import annotations

import enum
import math
import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from greenkit.errors import ConfigError, GreenkitError, RateLimited
from greenkit.responses import Answer, chain, is_disconnect, is_slow, number_in, read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from greenkit.limits._gcra import Rule, Rules
    from greenkit.limits._rates import Rate

    Reader = Callable[[Mapping[str, Any]], Mapping[str, "Quota"]]
    from collections.abc import Callable, Mapping


__all__ = [
    "LONGEST_PAUSE",
    "Ending",
    "Quota",
    "answered",
    "ending_of",
    "meant",
    "reader_of",
    "too_busy",
    "worth_another",
]

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


def _first(first: float | None, other: float | None) -> float | None:
    return other if first is None else first


def _number(headers: Mapping[str, Any], name: str) -> float | None:
    """Return the number a header holds, unless no limit could be it."""
    number = number_in(str(headers.get(name, "")))
    return number if number is not None and 0 <= number < math.inf else None


# A server once asked for 3.2 days and a client slept them. Whoever must wait longer than this is
# told 429 again, which costs one request every two minutes.
LONGEST_PAUSE = 120.0
# What a server answers that did not do the call: its rate is exceeded, or (529) it says it is overloaded.
_REFUSED = frozenset({429, 529})


class Ending(enum.Enum):
    """Say how a call ended, as far as its cost goes."""

    SPENT = "it went out, or may have: the cost stands"
    REJECTED = "the server refused it with 429 or 529: the request counts, the rest does not"
    NEVER_SENT = "it never left this machine: nothing counts"


def ending_of(
    error: BaseException | None, answer: Answer | None = None, *, since: BaseException | None = None
) -> Ending:
    """Return what `error`, raised by the call itself, says about its cost.

    Args:
        error: What the call ended with.
        answer: What `read()` makes of it, if it was asked already.
        since: What was being handled when the call began; it refunds nothing.
    """
    if error is None:
        return Ending.SPENT
    said = read(error, since=since) if answer is None else answer
    if said.status in _REFUSED:
        return Ending.REJECTED
    if said.status is not None:
        return Ending.SPENT
    # The connection was refused or the name unknown: clients wrap these, and chain them.
    links = chain(error, since=since)
    if any(isinstance(link, ConnectionRefusedError | socket.gaierror) for link in links):
        return Ending.NEVER_SENT
    return Ending.SPENT


def answered(
    error: BaseException, answer: Answer, ending: Ending, *, since: BaseException | None = None
) -> bool:
    """Tell whether a call that ended with `error` was let in by its server, so that others may follow.

    No for a refusal, an overload, a connection that broke or timed out, and a call that was killed.
    """
    if not isinstance(error, Exception) or ending is not Ending.SPENT:
        return False
    if answer.status is not None and answer.status >= 400:
        return not answer.overloaded
    return not is_disconnect(error, since=since)


def worth_another(error: BaseException, *, since: BaseException | None = None) -> bool:
    """Tell whether the same call may well succeed later.

    Yes for 408, 409, 425, 429, 5xx, and for connections that broke or timed out. No for an
    exhausted quota or a call that is too large (waiting heals neither), for anything the server asks
    not to repeat (`x-should-retry: false`), for greenkit's own refusals, and for what is not an
    `Exception` (a kill, a `gevent.Timeout`).
    """
    if not isinstance(error, Exception):
        return False
    if isinstance(error, GreenkitError) and not isinstance(error, RateLimited):
        return False
    answer = read(error, since=since)
    # A 200 whose body broke off is a disconnect.
    if answer.status is not None and answer.status >= 400:
        return answer.transient
    return is_disconnect(error, since=since)


def too_busy(error: BaseException, answer: Answer, *, since: BaseException | None = None) -> bool:
    """Tell whether the server had too much to do, or was too slow to answer."""
    return answer.overloaded if answer.status is not None else is_slow(error, since=since)
