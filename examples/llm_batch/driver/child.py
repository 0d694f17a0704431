"""A program of the demo: started in a session of its own, listened to, stopped within a deadline."""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from driver.bell import Bell, TroubleError

HERE = Path(__file__).resolve().parents[1]
LAUNCH = str(HERE / "driver" / "launch.py")


class Child:
    """Run `python ARGUMENTS` in the project's directory.

    A session of its own: Ctrl-C in the terminal reaches the driver alone, which stops its programs in order.
    """

    def __init__(self, bell: Bell, name: str, arguments: list[str], *, env: dict[str, str], **popen) -> None:
        self.name = name
        self.ready = False
        self.ended = False  # it is gone, and its output is at its end, so what it forked is gone too
        self._bell = bell
        self._tail: collections.deque[str] = collections.deque(maxlen=40)
        command = [sys.executable, "-I", "-S", LAUNCH, str(os.getpid()), sys.executable, *arguments]
        self.process = subprocess.Popen(
            command,
            cwd=HERE,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "PGAPPNAME": f"llm-batch-{name}", **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            **popen,
        )
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in self.process.stdout:
            self._tail.append(line.rstrip())
            if not self.ready and line.rstrip().endswith(" ready."):  # what Celery's worker says
                self.ready = True
                self._bell.ring()
        self.process.wait()  # the end of the output comes a moment before the end of the process
        self.ended = True
        self._bell.ring()

    def alive(self) -> bool:
        """Tell whether it runs; raise when it has failed."""
        code = self.process.poll()
        if code:
            self._bell.wait(lambda: self.ended, timeout=1.0, ending=True)
            log = "\n  ".join(self._tail)
            raise TroubleError(f"the {self.name} ended with exit code {code}; the end of its log:\n  {log}")
        return code is None

    def log(self) -> list[str]:
        return list(self._tail)

    def terminate(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it and everything it forked, now."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def join(self, timeout: float) -> bool:
        """Wait until it has ended after `terminate`; past the deadline kill it. Say whether it was polite."""
        polite = self._bell.wait(lambda: self.ended, timeout=timeout, ending=True)
        self.kill()  # what it forked and forgot
        if not polite:
            self.process.wait(5.0)
        return bool(polite)
