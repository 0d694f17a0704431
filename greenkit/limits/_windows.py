"""Make rules of what people write: one limit of a dimension, or several windows of it.

The windows of a dimension are all charged the same cost, and all of them have to let it go.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from greenkit._clock import MONOTONIC
from greenkit.errors import ConfigError
from greenkit.limits._calendar_rules import CalendarRules
from greenkit.limits._gcra import Rule, Rules
from greenkit.limits._rates import Rate, parse_rate

if TYPE_CHECKING:
    from greenkit._clock import Clock

__all__ = ["Windows", "rules_of", "windows"]

Windows = str | Rate | Sequence[str | Rate]

# Names of options here or of `permit()` and the like: such a dimension could not be given a cost.
_TAKEN = frozenset(
    [
        "clock",
        "concurrency",
        "deadline",
        "feedback",
        "key",
        "max_wait",
        "most",
        "name",
        "on_backend_error",
        "priority",
        "processes",
        "retry_on",
        "retry_share",
        "settle",
        "shadow",
        "share",
        "strict",
        "timeout",
    ]
)
# Dimensions everybody has, and what they are called by mistake. Any other name is a dimension of its own, of
# which a permit costs 0 unless told otherwise: a typing mistake would limit nothing.
_USUAL = ("requests", "tokens")
_MEANT = {
    **dict.fromkeys(("rpm", "rps", "rpd", "rph", "qps", "qpm", "calls_per_minute", "rate"), "requests"),
    **dict.fromkeys(("tpm", "tps", "tpd", "tph"), "tokens"),
}


def windows(name: str, given: Windows) -> tuple[Rate, ...]:
    """Return the limits of the dimension `name`, the shortest period first.

    Raises:
        ConfigError: One cannot be read, there is none, or two are for the same period.
        TypeError: The name is an option's, or nearly that of another dimension.

    Switches: never.
    """
    if name in _TAKEN or not name.isidentifier():
        msg = f"{name!r} cannot name a dimension: it is an option of Limiter or permit()"
        raise TypeError(msg)
    usual = _MEANT.get(name.lower()) or next(iter(difflib.get_close_matches(name, _USUAL, 1, 0.85)), name)
    if usual != name:
        msg = (
            f"{name}={given!r} looks like {usual}=, and as a dimension of its own it would limit nothing: "
            f"a permit costs none of it unless told otherwise. Write {usual}=, or choose another name"
        )
        raise TypeError(msg)
    several = given if isinstance(given, list | tuple) else [given]
    rates = [_rate(name, one) for one in several]
    if not rates:
        msg = f'{name}=[] limits nothing; give at least one window, such as ["500/min", "10_000/day"]'
        raise ConfigError(msg)
    rates.sort(key=lambda rate: (rate.period, rate.calendar is not None))
    for one, other in pairwise(rates):
        if (one.period, one.calendar) == (other.period, other.calendar):
            msg = f"{name} has two windows of the same period, {one} and {other}; keep the one that is meant"
            raise ConfigError(msg)
    return tuple(rates)


def rules_of(rates: Mapping[str, Sequence[Rate]], *, strict: bool, clock: Clock = MONOTONIC) -> Rules:
    """Return the rules for the windows of all dimensions.

    The shortest window has the name of its dimension, so that in a shared record a release with one window
    and one with several have that in common. The others are named by their period, too.

    Raises:
        ConfigError: Strict leaves nothing of a limit, or nothing could ever pass.

    Switches: never.
    """
    rules = []
    for name, several in rates.items():
        plain = next((rate for rate in several if rate.calendar is None), None)
        for rate in several:
            window = f"{rate.calendar.unit} {rate.calendar}" if rate.calendar else f"{rate.period:g}"
            rule = Rule(name if rate is plain else f"{name}@{window}", rate, strict, clock)
            if name == "requests" and rule.largest < 1:
                msg = f"requests {rate} has a burst of {rule.burst:g}, and each request costs 1: never"
                raise ConfigError(msg)
            rules.append(rule)
    by_calendar = any(rule.window is not None for rule in rules)
    return CalendarRules(rules) if by_calendar else Rules(rules)


def _rate(name: str, given: object) -> Rate:
    if isinstance(given, Rate):
        return given
    if isinstance(given, str):
        return parse_rate(given)
    msg = f'{name} must be a limit such as "500/min", or a list of them, not {given!r}'
    raise TypeError(msg)
