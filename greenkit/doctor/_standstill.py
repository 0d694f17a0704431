"""Whether the main thread stands still where the hub should be turning, and where its greenlets wait."""

from __future__ import annotations

import os
import sys
import time

from greenkit import boot
from greenkit.findings import Finding, Severity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

__all__ = ["Standstill", "cpu_clock", "waits"]

_SAMPLES = 8
_LONGEST_SAMPLE = 0.25
"""Seconds one sample accounts for at most: further apart, the watching thread had no turn either."""
_COMPUTES = 0.1
"""Share of the time on a CPU from which a thread computes; one that waits in a loop stays far below."""

_OLDEST = 5
"""So many greenlets are named beside the main one."""


def cpu_clock(thread: int) -> Callable[[], float]:
    """Return a clock that reads the seconds `thread` (an identifier of `threading`) was on a CPU.

    Switches: never.
    """
    number = time.pthread_getcpuclockid(thread)
    return lambda: time.clock_gettime(number)


class Standstill:
    """Watch one thread's innermost frame from outside.

    Args:
        limit: Seconds at one instruction that count as standing still; 0 never does.
        used: Seconds the thread was on a CPU. One that computes does not stand still, and one that
            is ready to run while other processes have the CPU is told by `ready`.
        ready: Whether the thread is running or ready to run.
    """

    def __init__(
        self, limit: float, *, used: Callable[[], float] = float, ready: Callable[[], bool] = bool
    ) -> None:
        self._limit = limit
        self._used = used
        self._ready = ready
        self._at: tuple[int, int] = (0, 0)
        self._stack: tuple[tuple[str, int, str, str], ...] = ()
        self._over: list[Finding] = []
        self._begin((0, 0), 0.0)

    def _begin(self, at: tuple[int, int], now: float) -> None:
        if self._stack:
            self._over.append(self._finding(over=True))
        self._at, self._last, self._stood, self._stack = at, now, 0.0, ()
        self._samples = self._idle = 0
        self._cpu = self._used()

    @property
    def lasts(self) -> bool:
        """Tell whether it stands still now."""
        return bool(self._stack)

    def watch(self, frame: FrameType | None, now: float) -> bool:
        """Note where the thread is; return whether it has stood still for the limit.

        A thread waiting in gevent's event loop is idle, and one of a program without gevent may
        wait as it likes. A look of the doctor's own is nothing the program does.

        Switches: never.
        """
        at = (id(frame), frame.f_lasti) if frame is not None else (0, 0)
        if at != self._at or frame is None or _is_idle(frame) or _is_ours(frame):
            self._begin(at, now)
            return False
        if not self._stack:
            self._count(frame, now)
        return bool(self._stack)

    def _count(self, frame: FrameType, now: float) -> None:
        self._samples += 1
        self._idle += not self._ready()
        self._stood += min(now - self._last, _LONGEST_SAMPLE)
        self._last = now
        if not self._limit or self._stood < self._limit or self._samples < _SAMPLES or not _is_green():
            return
        # It computes, or is kept from it by other processes: it comes to an end by itself.
        if self._idle * 2 < self._samples or self._used() - self._cpu > _COMPUTES * self._stood:
            self._begin(self._at, now)
            return
        self._stack = tuple(_places(frame))

    def findings(self, *, over: bool = False) -> tuple[Finding, ...]:
        """Return the standstills seen: the one that lasts as an error, the earlier ones as information.

        What the watchdog sees is told by the watchdog: whom a standstill that is over has stopped.

        Args:
            over: None lasts: it is the thread itself that asks.
        """
        return (*self._over, *([self._finding(over=over)] if self._stack else ()))

    def _finding(self, *, over: bool) -> Finding:
        file, line, function, module = next(
            (place for place in self._stack if boot.is_users_file(place[0])), self._stack[0]
        )
        holder = boot.called(module)
        said = f"the hub has stood still for {self._limit:g} s in {holder}.{function}: no greenlet runs"
        return Finding(
            "GK401",
            Severity.INFO if over else Severity.ERROR,
            f"{holder}.{function} took longer than {self._limit:g} s and went on" if over else said,
            hint="Look at the line: a lock, a query or a call in C that gevent cannot interrupt.",
            where=f"{file}:{line}",
            evidence=tuple(f"{place[0]}:{place[1]} {place[2]}" for place in self._stack),
            rule="blocking-call",
            effect="blocks-hub" if over else "hangs",
            holder=holder,
            attribute=function,
            captured_at=boot.shown(f"{file}:{line}"),
        )


def waits(hub: Any) -> tuple[Finding, ...]:
    """Return where the main greenlet of `hub` and those that wait longest are; () when none waits.

    For a process that the doctor is about to end: one that waits for ever in its hub does nothing wrong that
    could be seen. Called in a native thread.

    Switches: never.
    """
    # Late: gevent is loaded, or there would be no hub.
    from greenkit.watchdog import oldest_waiting

    found = oldest_waiting(hub, _OLDEST)
    if not found:
        return ()
    first = found[0]
    told = Finding(
        "GK130",
        Severity.INFO,
        f"process {os.getpid()} was waiting when its time was up: {first.runs} in {_near(first.waits)}",
        hint="Look at what each waits for: of two processes that wait for each other, neither goes on.",
        where=first.waits.rpartition(" ")[0],
        evidence=tuple(f"{one.runs} waits in {_near(one.waits)}" for one in found[1:]),
    )
    return (told,)


def _near(place: str) -> str:
    at, _, function = place.rpartition(" ")
    return f"{boot.shown(at)} {function}"


def _is_ours(frame: FrameType) -> bool:
    # The last look runs in the main thread, and so may the first.
    if str(frame.f_globals.get("__name__", "")).startswith("greenkit.boot."):
        return True
    at: FrameType | None = frame
    while at is not None:
        if str(at.f_globals.get("__name__", "")).startswith("greenkit.doctor."):
            return True
        at = at.f_back
    return False


def _is_idle(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).startswith("gevent.") and frame.f_code.co_name == "run"


def _is_green() -> bool:
    # Also half-way through a patch: that is where a hang is hardest to explain.
    return bool(getattr(sys.modules.get("gevent.monkey"), "saved", None))


def _places(frame: FrameType | None) -> list[tuple[str, int, str, str]]:
    places: list[tuple[str, int, str, str]] = []
    while frame is not None and len(places) < 40:
        code = frame.f_code
        places.append(
            (code.co_filename, frame.f_lineno, code.co_name, str(frame.f_globals.get("__name__", "")))
        )
        frame = frame.f_back
    return places
