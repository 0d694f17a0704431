"""Ask a headless Chromium what a page has become, through its debugging pipe (Chrome DevTools Protocol).

`--dump-dom` with virtual time is no help here: that clock stands still while a request is pending, and
a stream of events is one that never ends.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import subprocess
import sys
import time
from typing import IO, Any

# Chromium reads commands from descriptor 3 and answers on 4.
LAUNCH = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4);"
    "os.execvp(sys.argv[3], sys.argv[3:])"
)


class Chromium:
    """Show one page at a time; a context manager."""

    def __init__(self, program: str, profile: str, *, size: str = "1120,1080") -> None:
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        # Out of the way of 3 and 4, which the launcher overwrites.
        high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 20) for descriptor in (theirs_in, theirs_out)]
        flags = ["--headless", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run"]
        flags += ["--remote-debugging-pipe", f"--user-data-dir={profile}", f"--window-size={size}"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, *map(str, high), program, *flags],
            pass_fds=high,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for descriptor in (theirs_in, theirs_out, *high):
            os.close(descriptor)
        self._out: IO[bytes] = os.fdopen(ours_out, "wb", buffering=0)
        self._in: IO[bytes] = os.fdopen(ours_in, "rb")
        self._rest = b""
        self._numbers = itertools.count(1)
        self._session: dict[str, str] = {}

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *_: object) -> None:
        self._out.close()  # the end of the pipe ends the browser and its children
        try:
            self.process.wait(10.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._in.close()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command to the page and return its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters, **self._session}
        self._out.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            read = os.read(self._in.fileno(), 1 << 20)
            assert read, f"chromium ended with {self.process.poll()}"
            self._rest += read
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def open(self, url: str) -> None:
        """Show `url` in a page of its own."""
        target = self.call("Target.createTarget", url=url)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._session = {"sessionId": session}

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def until(self, expression: str, *, timeout: float) -> bool:
        """Wait until an expression is true; say whether it came to that."""
        deadline = time.monotonic() + timeout
        while not (found := bool(self.evaluate(expression))) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found
