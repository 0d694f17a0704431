"""The parent's side of a guardian: start it, ask it, let it go.

One `Guard` per embedded server. What the guardian promises is written in `_guardian.py`; here is only the
conversation. Works the same in a process patched by gevent (then it waits cooperatively) and in a plain one.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from greenkit.errors import ServerStartError, WaitTimeout
from greenkit.testing._place import base_directory

__all__ = ["Guard"]

_PROGRAM = str(Path(__file__).with_name("_guardian.py").resolve())
_OPEN: set[Guard] = set()  # strong: a server nobody holds any more is still closed at exit


class Guard:
    """Keep one guardian process, and through it a directory and a tree of processes.

    Args:
        kind: Goes into the directory's name: greenkit-<kind>-<random>.
        uid: Whom the spawned programs run as; None for ourselves.

    Raises:
        ServerStartError: The guardian did not start.
    """

    __slots__ = ("_asked", "_control", "_heard", "_lock", "_owner", "_process", "_reply",
                 "directory", "uid")  # fmt: skip

    def __init__(self, kind: str, *, uid: int | None) -> None:
        self.uid = uid
        self._owner = os.getpid()
        self._asked = 0
        self._heard = b""
        self.directory = ""
        self._lock = threading.Lock()
        theirs_in, self._control = os.pipe()
        self._reply, theirs_out = os.pipe()
        argv = [sys.executable, "-I", "-S", _PROGRAM, str(self._owner), base_directory(uid),
                f"greenkit-{kind}-", str(-1 if uid is None else uid)]  # fmt: skip
        try:
            # No stderr of ours: whoever reads our output to its end must not wait for a guardian.
            self._process = subprocess.Popen(
                argv, stdin=theirs_in, stdout=theirs_out, stderr=subprocess.DEVNULL, cwd="/",
                start_new_session=True,
            )  # fmt: skip
        except BaseException:
            os.close(self._control)
            os.close(self._reply)
            raise
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        _OPEN.add(self)
        try:
            self.directory = self._answer(0, time.monotonic() + 20.0)["directory"]
        except BaseException:
            self.close()
            raise

    def ask(self, do: str, *, patience: float, **details: Any) -> dict[str, Any]:
        """Have the guardian do one thing and return its answer.

        Args:
            do: A `do_…` method of the guardian.
            patience: Seconds to wait for the answer.
            **details: The method's arguments, as JSON.

        Raises:
            WaitTimeout: No answer within `patience`; the guardian goes on with it.
            ServerStartError: The guardian is gone, or could not do it.

        Switches: may
        """
        with self._lock:
            self._asked += 1
            line = json.dumps({"id": self._asked, "do": do, **details})
            try:
                os.write(self._control, line.encode() + b"\n")
            except OSError as error:
                raise ServerStartError(f"the guardian of {self.directory} is gone ({error})") from error
            answer = self._answer(self._asked, time.monotonic() + patience)
        if "error" in answer:
            raise ServerStartError(f"{do} in {self.directory} failed: {answer['error']}")
        return answer

    def close(self, *, timeout: float = 15.0) -> None:
        """Have the servers stopped and the directory removed, and wait for it.

        Switches: may
        """
        if self._owner != os.getpid() or self._control < 0:
            return
        control, self._control = self._control, -1
        _OPEN.discard(self)
        try:
            # Said and not only closed: a forked child may hold a copy of this end.
            with contextlib.suppress(OSError):
                os.write(control, b'{"do": "end"}\n')
        finally:
            os.close(control)
        try:
            deadline = time.monotonic() + timeout
            with contextlib.suppress(ServerStartError):
                while True:  # late answers, then the end of file: everything is tidied
                    self._heard = b""
                    self._read(deadline)
        finally:
            os.close(self._reply)
        self._process.wait(timeout=timeout)
        if self.directory:
            # The guardian has done so, unless somebody killed it.
            shutil.rmtree(self.directory, ignore_errors=True)

    def abandon(self) -> None:
        """Drop the pipe ends in a forked child; the server belongs to the parent."""
        if self._control >= 0:
            os.close(self._control)
            os.close(self._reply)
            self._control = -1

    def _answer(self, number: int, deadline: float) -> dict[str, Any]:
        while True:
            line, end, rest = self._heard.partition(b"\n")
            if not end:
                self._read(deadline)
                continue
            self._heard = rest
            answer: dict[str, Any] = json.loads(line)
            if answer.get("id") == number:  # else: the answer to a question that was given up
                return answer

    def _read(self, deadline: float) -> None:
        # Looked up at call time: under gevent this is the cooperative poll.
        poll = select.poll()
        poll.register(self._reply, select.POLLIN)
        left = max(0.0, deadline - time.monotonic())
        if not poll.poll(left * 1000):
            raise WaitTimeout("a test server's guardian did not answer in time; the server may be overloaded")
        data = os.read(self._reply, 65536)
        if not data:
            raise ServerStartError("a test server's guardian ended unexpectedly, and its server with it")
        self._heard += data


def _close_all() -> None:
    for guard in list(_OPEN):
        with contextlib.suppress(Exception):
            guard.close()


def _abandon_all() -> None:
    for guard in list(_OPEN):
        guard.abandon()
    _OPEN.clear()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_abandon_all)
