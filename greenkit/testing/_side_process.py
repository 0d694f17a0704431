"""A process beside ours and the conversation with it: JSON lines over two pipes.

What a guardian (`_guard`) and a fault proxy (`_fault_proxy`) share. It runs a file of this package
as `python -I -S`, in a session of its own, and ends when the control pipe closes. Works the same in a process
patched by gevent (then it waits cooperatively) and in a plain one.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from typing import Any

from greenkit.errors import ServerStartError, WaitTimeout

__all__ = ["SideProcess"]

_OPEN: set[SideProcess] = set()  # strong: one nobody holds any more is still closed at exit


class SideProcess:
    """Keep one process beside ours and talk to it.

    Args:
        program: Path of the file to run.
        arguments: Its arguments.

    Raises:
        ServerStartError: It did not start.
    """

    __slots__ = ("_asked", "_control", "_heard", "_lock", "_owner", "_process", "_reply", "greeting")

    role = "side process"

    def __init__(self, program: str, *arguments: str) -> None:
        self._owner = os.getpid()
        self._asked = 0
        self._heard = b""
        self._lock = threading.Lock()
        theirs_in, self._control = os.pipe()
        self._reply, theirs_out = os.pipe()
        try:
            # No stderr of ours: whoever reads our output to its end must not wait for it.
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", program, *arguments], stdin=theirs_in, stdout=theirs_out,
                stderr=subprocess.DEVNULL, cwd="/", start_new_session=True,
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
            self.greeting = self._answer(0, time.monotonic() + 20.0)
        except BaseException:
            self.close()
            raise

    def ask(self, do: str, *, reply_timeout: float, **details: Any) -> dict[str, Any]:
        """Have it do one thing and return its answer.

        Args:
            do: A `do_…` method of the program.
            reply_timeout: Seconds to wait for the answer.
            **details: The method's arguments, as JSON.

        Raises:
            WaitTimeout: No answer within `reply_timeout`; the process goes on.
            ServerStartError: It is gone, or could not do it.
        """
        with self._lock:
            self._asked += 1
            line = json.dumps({"id": self._asked, "do": do, **details})
            try:
                os.write(self._control, line.encode() + b"\n")
            except OSError as error:
                raise ServerStartError(f"{self._name()} is gone ({error})") from error
            answer = self._answer(self._asked, time.monotonic() + reply_timeout)
        if "error" in answer:
            raise ServerStartError(f"{do} by {self._name()} failed: {answer['error']}")
        return answer

    def close(self, *, timeout: float = 15.0) -> None:
        """Have it tidy and end, and wait for it."""
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

    def abandon(self) -> None:
        """Drop the pipe ends in a forked child; it belongs to the parent."""
        if self._control >= 0:
            os.close(self._control)
            os.close(self._reply)
            self._control = -1

    def _name(self) -> str:
        return f"the {self.role}"

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
            raise WaitTimeout(f"{self._name()} did not answer in time; the machine may be overloaded")
        data = os.read(self._reply, 65536)
        if not data:
            raise ServerStartError(f"{self._name()} ended unexpectedly, and what it ran with it")
        self._heard += data


def _close_all() -> None:
    for side in list(_OPEN):
        with contextlib.suppress(Exception):
            side.close()


def _abandon_all() -> None:
    for side in list(_OPEN):
        side.abandon()
    _OPEN.clear()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_abandon_all)
