"""A program under test: start it, kill it, stop it, freeze it, bring it back, and know how each life ended.

For what runs beside a test as a process of its own, such as a Celery worker. The embedded servers are in
`_server`; the process itself is the guardian's in both.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greenkit.errors import GreenkitError, ServerStartError
from greenkit.testing._guardian_process import GuardianProcess

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from typing_extensions import Self

__all__ = ["Program", "ProgramEnd"]


@dataclass(frozen=True, slots=True)
class ProgramEnd:
    """One end of a program.

    Attributes:
        pid: The process that ended.
        status: Its exit status; a negative number is the signal that ended it.
        asked: What ended it: "kill", "stop", or "" when it ended by itself.
        forced: It did not end within the time `stop` gave it, and was killed.
        left: How many of its descendants still ran when it had ended in good order; they were killed.
    """

    pid: int
    status: int
    asked: str
    forced: bool = False
    left: int = 0

    @property
    def by_itself(self) -> bool:
        """Tell whether nobody asked for this end."""
        return not self.asked


class Program:
    """Run a program, hurt it, and bring it back.

    A context manager. The program and everything it started are gone on each way out, even a SIGKILL of the
    process that started it. It inherits our environment and runs as the same user.

    Args:
        argv: The command line.
        env: Variables on top of ours; None takes a variable away.
        cwd: Directory it starts in; None is ours.
        ready: `start` waits until a line of the output contains this; empty: it does not wait.
        log: File that the output is appended to; None keeps the last lines only, for `log_tail()`.
        start_timeout: Seconds it may take until it says `ready`.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str | None] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        ready: str = "",
        log: str | os.PathLike[str] | None = None,
        start_timeout: float = 30.0,
    ) -> None:
        if isinstance(argv, str) or not argv:
            raise TypeError(f"Program takes a list of arguments, such as ['celery', 'worker'], not {argv!r}")
        self.argv = list(argv)
        self.env = dict(env or {})
        self.cwd = os.fspath(cwd or Path.cwd())
        self.log = os.fspath(Path(log).resolve()) if log is not None else ""
        self.ready, self._start_timeout = ready, start_timeout
        self._guardian: GuardianProcess | None = None
        self._pid: int | None = None
        self._ends: list[ProgramEnd] = []

    def __repr__(self) -> str:
        state = f"pid {self._pid}" if self._pid else "not running"
        return f"<Program {self.argv[0]} {state}, {len(self._ends)} ends>"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Return the running process."""
        self._needed()
        assert self._pid is not None
        return self._pid

    @property
    def ends(self) -> tuple[ProgramEnd, ...]:
        """Return how each life ended, in order; an end by itself is noted when `running` is asked."""
        return tuple(self._ends)

    @property
    def running(self) -> bool:
        """Tell whether it runs; notes the end when it ended by itself.

        Switches: may
        """
        if self._guardian is None or self._pid is None:
            return False
        answer = self._guardian.ask("status", reply_timeout=30.0)
        if not answer["alive"]:
            self._halt(signal.SIGKILL, 0.0, asked="")
        return bool(answer["alive"])

    def start(self) -> Self:
        """Start it, for the first time or again; wait until it says `ready`.

        Raises:
            ServerStartError: It ended first, or took too long; the message ends with its output.

        Switches: may
        """
        if self._pid is not None and self.running:
            return self
        if self._guardian is None:
            self._guardian = GuardianProcess("program", uid=None)
        given = {**os.environ, **self.env}
        answer = self._guardian.ask(
            "launch", argv=self.argv, env={k: v for k, v in given.items() if v is not None}, cwd=self.cwd,
            ready=self.ready, timeout=self._start_timeout, end_signal=int(signal.SIGKILL),
            copy_to=self.log, reply_timeout=self._start_timeout + 10.0,
        )  # fmt: skip
        if "pid" not in answer:
            raise _did_not_start(self.argv[0], self.ready, answer)
        self._pid = int(answer["pid"])
        return self

    def kill(self) -> ProgramEnd:
        """SIGKILL it and everything it started, as a crash of the machine would.

        Switches: may
        """
        return self._halt(signal.SIGKILL, 0.0, asked="kill")

    def stop(self, *, timeout: float = 30.0, number: int = signal.SIGTERM) -> ProgramEnd:
        """Signal the main process and wait for its end; after `timeout` seconds kill it (`forced`).

        Switches: may
        """
        return self._halt(number, timeout, asked="stop")

    def restart(self, *, timeout: float = 30.0) -> ProgramEnd:
        """Stop it and start it again; return how it ended.

        Switches: may
        """
        end = self.stop(timeout=timeout)
        self.start()
        return end

    def freeze(self) -> None:
        """SIGSTOP every process of it, and wait until all stand still; `thaw` ends it.

        Switches: may
        """
        self._needed().ask("freeze", reply_timeout=30.0)

    def thaw(self) -> None:
        """SIGCONT every process of it.

        Switches: may
        """
        self._needed().ask("signal", number=int(signal.SIGCONT), reply_timeout=30.0)

    def signal(self, number: int) -> None:
        """Send the main process any signal; nothing is waited for.

        Switches: may
        """
        self._needed().ask("tell", number=int(number), reply_timeout=30.0)

    def wait(self, timeout: float) -> ProgramEnd | None:
        """Wait until it ends by itself; None when it still runs after `timeout` seconds.

        Switches: may
        """
        guardian = self._needed()
        if guardian.ask("await", timeout=timeout, reply_timeout=timeout + 30.0)["alive"]:
            return None
        return self._halt(signal.SIGKILL, 0.0, asked="")

    def log_tail(self) -> str:
        """Return the last lines it wrote.

        Switches: may
        """
        if self._guardian is None:
            raise GreenkitError(f"{self!r} has no output: it was never started, or is closed. Call start().")
        return "\n".join(self._guardian.ask("tail", reply_timeout=30.0)["tail"])

    def close(self) -> None:
        """Kill it if it runs, and let go of everything; doing it twice is fine.

        Switches: may
        """
        guardian, self._guardian, self._pid = self._guardian, None, None
        if guardian is not None:
            guardian.close()

    def _halt(self, number: int, timeout: float, *, asked: str) -> ProgramEnd:
        guardian, pid = self._needed(), self._pid
        assert pid is not None
        self._pid = None
        answer = guardian.ask("halt", number=int(number), timeout=timeout, reply_timeout=timeout + 30.0)
        status, before = answer["status"], answer["before"]
        end = ProgramEnd(
            pid=pid,
            status=-int(signal.SIGKILL) if status is None else int(status),
            asked="" if before else asked,
            forced=asked == "stop" and status is None,
            left=int(answer["left"]),
        )
        self._ends.append(end)
        return end

    def _needed(self) -> GuardianProcess:
        if self._guardian is None or self._pid is None:
            raise GreenkitError(f"{self!r} cannot be signalled or waited for. Call start() first.")
        return self._guardian


def _did_not_start(program: str, ready: str, answer: dict[str, Any]) -> ServerStartError:
    status = answer["status"]
    how = f"ended with status {status}" if status is not None else "did not in time"
    tail = "\n".join(answer["tail"]) or "(it wrote nothing)"
    return ServerStartError(
        f"{program} should have written {ready!r} and {how}; the end of its output:\n{tail}"
    )
