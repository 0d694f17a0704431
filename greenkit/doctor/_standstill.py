"""Whether the main thread stands still where the hub should be turning."""

from __future__ import annotations

import sys

from greenkit import boot
from greenkit.findings import Finding, Severity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

__all__ = ["Standstill"]

_SAMPLES = 8


class Standstill:
    """Watch one thread's innermost frame from outside.

    Args:
        limit: Seconds at one instruction that count as standing still; 0 never does.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._at: tuple[int, int] = (0, 0)
        self._since = 0.0
        self._samples = 0
        self._stack: tuple[tuple[str, int, str, str], ...] = ()

    @property
    def lasts(self) -> bool:
        """Tell whether it stands still now."""
        return bool(self._stack)

    def watch(self, frame: FrameType | None, now: float) -> bool:
        """Note where the thread is; return whether it has stood still for the limit.

        A thread waiting in gevent's event loop is idle, and one of a program without gevent may
        wait as it likes.

        Switches: never.
        """
        at = (id(frame), frame.f_lasti) if frame is not None else (0, 0)
        if at != self._at or frame is None or _is_idle(frame):
            self._at, self._since, self._stack, self._samples = at, now, (), 0
            return False
        self._samples += 1
        # Few samples in a long time: the machine is busy, and so the thread had no turn either.
        enough = now - self._since >= self._limit and self._samples >= _SAMPLES
        if self._limit and enough and not self._stack and _is_green():
            self._stack = tuple(_places(frame))
        return bool(self._stack)

    def finding(self) -> Finding | None:
        """Return the standstill as a finding, None when there is none."""
        if not self._stack:
            return None
        file, line, function, module = next(
            (one for one in self._stack if boot.is_users_file(one[0])), self._stack[0]
        )
        holder = boot.called(module)
        return Finding(
            "GK401",
            Severity.ERROR,
            f"the hub has stood still for {self._limit:g} s in {holder}.{function}: no greenlet runs",
            hint="Look at the line: a lock, a query or a call in C that gevent cannot interrupt.",
            where=f"{file}:{line}",
            evidence=tuple(f"{one[0]}:{one[1]} {one[2]}" for one in self._stack),
            rule="blocking-call",
            effect="hangs",
            holder=holder,
            attribute=function,
            captured_at=boot.shown(f"{file}:{line}"),
        )


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
