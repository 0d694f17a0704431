"""What `install()` can be told, and where it reads it from.

An argument of `install()` wins over a `greenkit_*` key of the app's configuration, which wins over
the default. The configuration is read when a worker starts, never at `install()`: reading it
earlier would finalise an app whose settings come later in the same module.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from enum import Enum
from typing import TYPE_CHECKING

from greenkit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from celery import Celery

__all__ = ["LONGEST_LIMIT", "UNSET", "Options", "Unset", "unknown_keys"]


LONGEST_LIMIT = 366 * 86_400.0
"""Seconds; a longer time limit of a task is a mistake, or stands for none."""
_WORDS = {
    "children": ("report", "kill", "join", "ignore"),
    "recycle": ("exec", "exit"),
    "unpatched": ("refuse", "warn"),
}


class Unset(Enum):
    """Tell "not given" from None, which means "off"."""

    UNSET = "unset"


UNSET = Unset.UNSET


@dataclass(frozen=True, slots=True)
class Options:
    """Hold the settings of one worker.

    Attributes:
        watchdog: Seconds the hub may stand still before it is reported; None for no watchdog.
        drain_timeout: Seconds a warm shutdown waits for running tasks; then unfinished late-ack
            tasks go back to the broker. None waits for ever, as Celery does.
        retry_limited: Turn `WouldWait` and `RateLimited` out of a task into a retry after the
            seconds they carry, not counted against `max_retries`.
        unpatched: "refuse" to start a worker in a process whose patch does not fit its pool, or
            "warn". Only as an argument does it hold for what the command line tells already.
        kill_grace: Seconds a task over its hard limit gets for its `finally` blocks before it is
            killed again.
        children: What happens to greenlets a task leaves running: "report" them, once per task and
            function, "kill" or "join" them within the task's limits, or "ignore" them.
        recycle: How a worker that reached `max_tasks_per_child` (times its slots) or
            `max_memory_per_child` ends: "exec" its own command line anew, or "exit" with status 0
            for the supervisor.
        warm_up: Modules imported before the first message is taken.
        hold_limited: Tasks that wait for their limiter with a place in the prefetch window of
            their own; more take places of others.
        share_results: Store and await all results of a patched process through one backend object
            (Redis only).
    """

    watchdog: float | None = 0.1
    drain_timeout: float | None = None
    retry_limited: bool = True
    unpatched: str = "refuse"
    kill_grace: float = 1.0
    share_results: bool = True
    children: str = "report"
    recycle: str = "exec"
    warm_up: tuple[str, ...] = ()
    hold_limited: int = 1000

    def __post_init__(self) -> None:
        _check_seconds("watchdog", self.watchdog, none_is="off", least=0.001)
        _check_seconds("drain_timeout", self.drain_timeout, none_is="wait for ever", least=0.0)
        if self.kill_grace is None:
            raise ConfigError("kill_grace is None; it must be a number of seconds, such as 1.0")
        _check_seconds("kill_grace", self.kill_grace, none_is="", least=0.001)
        for name in ("retry_limited", "share_results"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be True or False")
        for name, words in _WORDS.items():
            if getattr(self, name) not in words:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(words)}")
        names: object = self.warm_up
        if not isinstance(names, (tuple, list)) or not all(isinstance(name, str) for name in names):
            raise ConfigError(f"warm_up is {self.warm_up!r}; it must be a list of module names")
        if not isinstance(self.hold_limited, int) or self.hold_limited < 0:
            raise ConfigError(f"hold_limited is {self.hold_limited!r}; it must be a whole number, at least 0")

    @classmethod
    def read(cls, conf: Mapping[str, Any], given: Mapping[str, Any]) -> Options:
        """Return the options of a worker: `given` arguments over `greenkit_*` keys of `conf`.

        Raises:
            ConfigError: A value is out of range.
        """
        found: dict[str, Any] = {}
        for option in fields(cls):
            value = given.get(option.name, UNSET)
            if value is UNSET:
                value = conf.get(f"greenkit_{option.name}", UNSET)
            if value is not UNSET:
                found[option.name] = value
        return replace(cls(), **found)


def unknown_keys(app: Celery) -> list[str]:
    """Return one sentence for each key of the configuration that looks like an option and is none.

    It names the nearest one, as it is spelled in the app's namespace (`CELERY_GREENKIT_…`).
    """
    names = [f"greenkit_{option.name}" for option in fields(Options)]
    prefix = f"{app.namespace}_" if app.namespace else ""
    # Celery takes the case of the prefix for the whole key (celery/utils/collections.py 5.7, `match_case`).
    spelled = {name: (prefix + name).upper() if prefix.isupper() else prefix + name for name in names}
    known = {*names, *spelled.values()}
    found = []
    for key in sorted({str(key) for key in app.conf}):
        name = key.lower().removeprefix(prefix.lower())
        if key in known or not name.startswith("green"):
            continue
        near = get_close_matches(name, names, n=1, cutoff=0.7)
        if near:
            found.append(f"{key} is not read; did you mean {spelled[near[0]]}?")
        elif name.startswith("greenkit_"):
            found.append(f"{key} is not read; there are {', '.join(spelled.values())}")
    return found


def _check_seconds(name: str, value: object, *, none_is: str, least: float) -> None:
    if value is None:
        return
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not value >= least:  # type: ignore[operator]  # a number by now
        also = f", or None ({none_is})" if none_is else ""
        raise ConfigError(f"{name} is {value!r}; it must be seconds, at least {least}{also}")
