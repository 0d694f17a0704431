"""Read the time to wait from headers, fields and texts. Pure except for the wall clock.

A value that cannot be parsed, is zero, in the past, or more than a year ahead counts as absent.
"""

from __future__ import annotations

import math
import re
import time
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["asked_in", "get", "mapping", "number_in", "plain_headers", "reset_in", "sane", "text_of"]

# A longer time is a mistake or an attack, and overflows the arithmetic of code that sleeps it.
_LONGEST = 366 * 86_400.0
_IN = re.compile(
    r"(?:try again|retry|available|resets?)(?: again)? (?:in|after):? (?P<time>(?:[\d.]+\s*[a-zµ]*\s*){1,4})",
    re.IGNORECASE,
)
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-zµ]+)", re.IGNORECASE)
_UNITS = {
    "ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "millisecond": 1e-3, "s": 1.0, "sec": 1.0,
    "second": 1.0, "m": 60.0, "min": 60.0, "minute": 60.0, "h": 3600.0, "hr": 3600.0, "hour":
    3600.0, "d": 86400.0, "day": 86400.0,
}  # fmt: skip
_RESET = re.compile(r"rate-?limit.*reset|^ratelimit$")


def plain_headers(headers: Any) -> dict[str, str]:
    """Return headers of any library as a dict, names in lower case; empty when they cannot be read.

    Switches: never.
    """
    try:
        pairs = headers.items() if hasattr(headers, "items") else headers
        return {text_of(name).lower(): text_of(value).strip() for name, value in pairs}
    except Exception:  # foreign objects
        return {}


def number_in(text: object) -> float | None:
    """Return `text` as a finite number, or None.

    Switches: never.
    """
    try:
        number = float(text)  # type: ignore[arg-type]  # whatever it is
    except Exception:  # OverflowError of a huge int, or foreign code
        return None
    return number if math.isfinite(number) else None


def asked_in(headers: Mapping[str, str], errors: list[dict[str, Any]], text: str) -> float | None:
    """Return the seconds to wait: from headers first, then the body's fields, then its text."""
    for name in ("retry-after-ms", "x-ms-retry-after-ms"):
        millis = number_in(headers.get(name))
        if millis is not None and sane(millis / 1000.0):
            return sane(millis / 1000.0)
    said = headers.get("retry-after", "")
    number = number_in(said)
    seconds = sane(number if number is not None else _until(said, headers.get("date", "")))
    if seconds is not None:
        return seconds
    for error in errors:
        for name in ("retryDelay", "retry_delay", "retry_after", "retry_after_seconds", "retryAfter"):
            seconds = sane(_duration(error.get(name)))
            if seconds is not None:
                return seconds
    match = _IN.search(text)
    return sane(_spelt(match.group("time"))) if match else None


def reset_in(headers: Mapping[str, str]) -> float | None:
    """Return the seconds until an exhausted limit resets: the latest with 0 left, else the soonest."""
    empty, unknown = [], []
    for name, value in headers.items():
        if not _RESET.search(name):
            continue
        seconds = _reset(value, headers.get("date", ""))
        left = number_in(headers.get(name.replace("reset", "remaining")))
        if name == "ratelimit":
            left = number_in(_parameter(value, "r"))
        if seconds is not None and left is None:
            unknown.append(seconds)
        elif seconds is not None and left is not None and left <= 0:
            empty.append(seconds)
    return max(empty) if empty else min(unknown, default=None)


def _reset(value: str, date: str) -> float | None:
    number = number_in(value)
    if number is None:
        in_draft = number_in(_parameter(value, "t"))  # RateLimit of the IETF draft
        return sane(in_draft if in_draft is not None else _first(_spelt(value), _until(value, date)))
    if number > 1e11:  # milliseconds since 1970
        number /= 1000.0
    if number > 1e9:  # seconds since 1970
        number -= _now(date)
    return sane(number)


def _parameter(text: str, letter: str) -> str:
    match = re.search(rf"(?:^|[;,])\s*{letter}\s*=\s*(\d+)", text)
    return match.group(1) if match else ""


def _duration(value: Any) -> float | None:
    """Return seconds of "34.07s", {"seconds": 34}, a timedelta, or a protobuf Duration."""
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, int | float | str):
        number = number_in(value)
        return number if number is not None else _spelt(text_of(value))
    seconds, nanos = (
        value.get(name) if isinstance(value, dict) else get(value, name) for name in ("seconds", "nanos")
    )
    whole = number_in(seconds)
    return None if whole is None else whole + (number_in(nanos) or 0.0) / 1e9


def _spelt(text: str) -> float | None:
    """Return seconds of a duration in Go's form ("6m0s", "1ms") or in words ("5 minutes")."""
    text, seconds, end = text.strip()[:64].rstrip(" ."), 0.0, 0
    for part in _PART.finditer(text):
        unit = _UNITS.get(part.group(2).lower()) or _UNITS.get(part.group(2).lower().rstrip("s"))
        if unit is None or text[end : part.start()].strip(" ,"):
            return seconds or None
        seconds += float(part.group(1)) * unit
        end = part.end()
    return seconds if end else number_in(text)


def _until(text: str, date: str) -> float | None:
    then = _instant(text)
    return None if then is None else then - _now(date)


def _now(date: str) -> float:
    # Use the server's Date: its clock and ours may differ.
    sent = _instant(date)
    return time.time() if sent is None else sent


def _instant(text: str) -> float | None:
    """Return the time of an HTTP date or of RFC 3339, in seconds since 1970."""
    text = text.strip()[:64]
    instant = _parsed(parsedate_to_datetime, text)
    # Python 3.10 does not read the Z of RFC 3339.
    return (
        instant if instant is not None else _parsed(datetime.fromisoformat, re.sub("[zZ]$", "+00:00", text))
    )


def _parsed(parse: Callable[[str], datetime], text: str) -> float | None:
    try:
        date = parse(text)
        return (date if date.tzinfo else date.replace(tzinfo=timezone.utc)).timestamp()
    except (TypeError, ValueError, IndexError, OverflowError, AttributeError):
        return None


def sane(seconds: float | None) -> float | None:
    """Return `seconds`, or None when it is 0, negative, or longer than a year.

    Switches: never.
    """
    # Treat zero and the past as absent: a caller who slept them would retry at once.
    return seconds if seconds is not None and 0.0 < seconds <= _LONGEST else None


def get(thing: Any, name: str) -> Any:
    """Return an attribute, None when it is missing or raises."""
    try:
        return getattr(thing, name, None)
    except Exception:  # a property may raise anything
        return None


def text_of(value: object) -> str:
    """Return `value` as text, "" when it cannot be."""
    try:
        if isinstance(value, bytes | bytearray):
            return value.decode("utf-8", "replace")
        return "" if value is None else str(value)
    except Exception:  # a foreign __str__
        return ""


def mapping(value: object) -> dict[str, Any]:
    """Return `value` if it is a dict, else an empty one."""
    return value if isinstance(value, dict) else {}


def _first(first: float | None, second: float | None) -> float | None:
    return second if first is None else first
