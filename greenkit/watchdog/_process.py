"""The watchdog of the process, started by `start()`, by the Celery worker, or by `GREENKIT_WATCHDOG`."""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING

from greenkit.errors import ConfigError
from greenkit.watchdog._watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["expected", "from_environ", "running", "start", "stop"]

_OFF = frozenset({"", "0", "off", "no", "false"})
_DURATION = re.compile(r"\s*(?P<number>\d+(?:\.\d*)?|\.\d+)\s*(?P<unit>ms|s)?\s*")
_process: Watchdog | None = None


def start(threshold: float = 0.1, *, interval: float | None = None) -> Watchdog:
    """Watch this thread's hub until `stop()`; a second call replaces the first and keeps its observers.

    Args:
        threshold: Seconds the hub may stand still before it is reported.
        interval: Seconds between two beats, at most half the threshold; a quarter of it when None.

    Switches: never.
    """
    global _process  # noqa: PLW0603 - one per process
    fresh = Watchdog(threshold, interval=interval)
    if _process is not None:
        fresh._observers = _process._observers
    stop()
    _process = fresh
    fresh.start()
    return fresh


def stop() -> None:
    """Stop the process's watchdog.

    Switches: may, as a log handler does when blocks were counted and not yet logged.
    """
    global _process  # noqa: PLW0603
    if _process is not None:
        _process.stop()
        _process = None


def running() -> Watchdog | None:
    """Return the process's watchdog, or None."""
    return _process


@contextlib.contextmanager
def expected() -> Iterator[None]:
    """Excuse what blocks inside, when the process has a watchdog; see `Watchdog.expected()`.

    Switches: never.
    """
    with _process.expected() if _process is not None else contextlib.nullcontext():
        yield


def from_environ() -> Watchdog | None:
    """Start the process's watchdog as `GREENKIT_WATCHDOG` says: `100ms`, `0.1s`, `0.1`; None when it is off.

    Raises:
        ConfigError: It is not a duration.

    Switches: never.
    """
    text = os.environ.get("GREENKIT_WATCHDOG", "").strip()
    if text.lower() in _OFF:
        return None
    found = _DURATION.fullmatch(text)
    seconds = float(found["number"]) / (1000 if found["unit"] == "ms" else 1) if found else 0.0
    if seconds <= 0:
        raise ConfigError(
            f"GREENKIT_WATCHDOG={text!r} is no duration; write how long the hub may stand still: 100ms, 0.1s,"
            " or off"
        )
    return start(seconds)
