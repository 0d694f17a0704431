"""Run a program to its end, pass signals on, and end it when its time is up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from greenkit.doctor._diagnosis import Ended

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Child", "run"]

_PASSED_ON = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT})
_GRACE = 4.0
"""Seconds a program has to end by itself after SIGTERM."""
_START = 60.0
"""Seconds after which the time counts for a program that has not begun."""
_ANSWER = 3.0
"""Seconds an observed process has to say what it sees, before something is done to it."""


@dataclass(frozen=True, slots=True)
class Child:
    """Say how to run a program.

    Attributes:
        command: Its words; the first is a path.
        environment: Its whole environment.
        timeout: Seconds it may take; None for ever.
        begins: File it writes when it begins, from which the time counts; "" to count from the start.
        quiet: Send what it prints to standard error: standard output is the report's.
        deaf: Give it no standard input.
    """

    command: Sequence[str]
    environment: Mapping[str, str]
    timeout: float | None = None
    begins: str = ""
    quiet: bool = False
    deaf: bool = False


def run(child: Child, *, directory: str, ask: str = "") -> Ended:
    """Run `child` until it ends by itself, stands still, or its time is up.

    Signals sent to this process go to the child; one typed at the terminal has reached it already.

    Args:
        child: What to run.
        directory: Where its processes leave their notes. `<pid>.stalled` ends the program and becomes
            `<pid>.accused.json`. The environment must name it: by that its processes are known.
        ask: Name of the file that makes them write down what they see, "" when they cannot be asked.

    Raises:
        OSError: It cannot be started.
    """
    watched = _PASSED_ON | {signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    try:
        process = subprocess.Popen(
            list(child.command),
            env=dict(child.environment),
            stdin=subprocess.DEVNULL if child.deaf else None,
            stdout=2 if child.quiet else None,
            # The child must not inherit the blocked signals.
            preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, before),  # noqa: PLW1509 - one thread
        )
        notes = _Notes(directory, ask, process)
        try:
            how = _follow(process, child, notes)
        finally:
            if process.poll() is None:
                _end(process, notes)
            elif how == "timeout" or not ask:
                # What it left behind holds our caller's pipes, and nobody waits for it.
                notes.ask()
                _end_rest(notes)
        return Ended(tuple(child.command), how, process.returncode)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Notes:
    """The files by which the observed processes and the doctor talk."""

    def __init__(self, directory: str, ask: str, process: subprocess.Popen[bytes]) -> None:
        self._directory = Path(directory)
        self._ask = ask
        self.asks = bool(ask)
        self._process = process

    def stalled(self) -> bool:
        """Take the note of a process that stands still; False when there is none, or it went on just now."""
        for note in self._directory.glob("*.stalled"):
            try:
                note.rename(note.with_suffix(".accused.json"))
            except FileNotFoundError:
                continue
            return True
        return False

    def ask(self) -> None:
        """Have every process write down what it sees; wait until the main one has."""
        note = self._directory / self._ask
        if not self._ask or note.exists():
            return
        note.touch()
        answer, deadline = self._directory / f"{self._process.pid}.answered", time.monotonic() + _ANSWER
        while not answer.exists() and self._process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)

    def left(self) -> list[int]:
        """Return the processes of the program that are still there, by the environment they were given."""
        mark = f"={self._directory}\0".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if mark in path.read_bytes() and int(path.parent.name) != self._process.pid:
                    found.append(int(path.parent.name))
            except OSError:  # noqa: PERF203 - gone meanwhile, or somebody else's
                pass
        return found


def _follow(process: subprocess.Popen[bytes], child: Child, notes: _Notes) -> str:
    timeout, latest = child.timeout, time.monotonic() + _START
    deadline = None if timeout is None else time.monotonic() + timeout
    begun, how = not child.begins, ""
    while process.poll() is None:
        if timeout is not None and not begun:
            # On a busy machine an interpreter may take longer to start than what is looked at may take.
            begun = Path(child.begins).exists() or time.monotonic() >= latest
            deadline = time.monotonic() + timeout
        caught = signal.sigtimedwait(_PASSED_ON | {signal.SIGCHLD}, 0.1)
        if caught is not None and caught.si_signo in _PASSED_ON:
            how = "interrupted"
            if caught.si_code <= 0:  # sent to us alone, by kill(2); the terminal's own reach the whole group
                notes.ask()
                process.send_signal(caught.si_signo)
        elif how != "interrupted" and notes.stalled():
            return "stalled"
        elif deadline is not None and time.monotonic() >= deadline:
            return "timeout"
    if deadline is not None and how != "interrupted":
        # It may have forked and gone: its time is that of all its processes.
        while notes.asks and notes.left():
            if time.monotonic() >= deadline:
                return "timeout"
            time.sleep(0.2)
    return how or ("signal" if process.returncode < 0 else "exit")


def _end(process: subprocess.Popen[bytes], notes: _Notes) -> None:
    notes.ask()
    for passed_on in (signal.SIGTERM, signal.SIGKILL):
        process.send_signal(passed_on)
        try:
            process.wait(_GRACE)
            break
        except subprocess.TimeoutExpired:
            sys.stderr.write(f"greenkit: the program does not end at {passed_on.name}\n")
    _end_rest(notes)


def _end_rest(notes: _Notes) -> None:
    """End its workers: what it did not end, or could not any more, would stay for ever."""
    for passed_on in (signal.SIGTERM, signal.SIGKILL):
        for pid in notes.left():
            try:
                os.kill(pid, passed_on)
            except ProcessLookupError:  # noqa: PERF203 - each may be gone
                pass
        deadline = time.monotonic() + 1.0
        while notes.left() and time.monotonic() < deadline:
            time.sleep(0.05)
