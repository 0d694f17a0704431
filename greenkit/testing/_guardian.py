"""Own one test server's processes and directory, and outlive the process that asked for them.

Not imported: `GuardianProcess` runs this file as `python -I -S _guardian.py PARENT BASE PREFIX UID`, in a
session of its own. It makes the directory, spawns what it is told in JSON lines on stdin, answers on
stdout. When the control pipe closes, the parent dies or sends "end", it stops whatever it spawned and removes
the directory. That covers exits after which the parent cannot clean up, SIGKILL too.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER, _IPC_RMID = 1, 36, 0
_GRACE = 2.0  # seconds a server gets to react to its end signal before SIGKILL
_LIBC = ctypes.CDLL(None, use_errno=True)


class ParentGoneError(BaseException):
    """Unwind from any wait: the parent is gone."""


def state_of(pid: int) -> str:
    """Return the letter of a process's state, Z when it has ended."""
    if Path("/proc/self").is_dir():
        try:
            return Path(f"/proc/{pid}/stat").read_text(encoding="latin-1").rpartition(")")[2].split()[0]
        except OSError:
            return "Z"
    listing = subprocess.run(
        ["/bin/ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return listing.stdout.strip()[:1] or "Z"


def parents() -> dict[int, int]:
    """Return the parent of every process of the machine."""
    found: dict[int, int] = {}
    if not Path("/proc/self").is_dir():
        listing = subprocess.run(
            ["/bin/ps", "-axo", "pid=,ppid="], capture_output=True, text=True, check=False
        )
        return {int(line.split()[0]): int(line.split()[1]) for line in listing.stdout.splitlines()}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it ended while we looked
                stat = (entry / "stat").read_bytes()
                found[int(entry.name)] = int(stat.rpartition(b")")[2].split()[1])
    return found


def descendants(root: int) -> list[int]:
    """Return the processes below `root`, nearest first."""
    children = collections.defaultdict(list)
    for pid, parent in parents().items():
        children[parent].append(pid)
    found: list[int] = []
    queue = collections.deque([root])
    while queue:
        below = children[queue.popleft()]
        found += below
        queue += below
    return found


def die_with_guardian() -> None:
    """Ask the kernel, in the child, for SIGKILL when the guardian itself is killed (Linux)."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Guardian:
    """Run commands from the control pipe until it closes."""

    def __init__(self, parent: int, uid: int) -> None:
        self.uid = uid
        self.end_signal = int(signal.SIGKILL)
        self.main: int | None = None
        self._ending = False
        self._log: collections.deque[str] = collections.deque(maxlen=400)
        self._lines = 0  # seen in all, so that a wait for a line starts where it was asked
        self._heard = b""
        self._exits: dict[int, int] = {}
        self._copies: dict[int, int] = {}  # pipe of a program's output: file that gets a copy
        self._partial: dict[int, bytes] = {}
        self._poll = select.poll()
        self._poll.register(0, select.POLLIN)
        self._wake, waker = os.pipe()
        for end in (self._wake, waker):
            os.set_blocking(end, False)
        # Handlers, not SIG_IGN: an ignored signal stays ignored in the servers we exec.
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        self._poll.register(self._wake, select.POLLIN)
        self._parent_fd = -1
        if hasattr(os, "pidfd_open"):
            # A forked child of the parent may keep the pipe open; the parent's death still counts.
            with contextlib.suppress(OSError):
                self._parent_fd = os.pidfd_open(parent)
                self._poll.register(self._parent_fd, select.POLLIN)
        if os.getppid() != parent:
            raise ParentGoneError
        if sys.platform == "linux":
            _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1)  # daemons of the server stay ours

    # -- waiting ---------------------------------------------------------------------------------
    def wait_for_event(self, deadline: float | None) -> None:
        """Wait for one event, or until the deadline."""
        wait = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        for fd, _event in self._poll.poll(wait):
            if fd == 0:
                data = os.read(0, 65536)
                self._heard += data
                if not data or b'"do": "end"' in self._heard:
                    raise ParentGoneError
            elif fd == self._parent_fd:
                raise ParentGoneError
            elif fd == self._wake:
                told = os.read(self._wake, 512)
                self.reap()
                if signal.SIGTERM in told and not self._ending:
                    raise ParentGoneError
            else:
                self._listen(fd)

    def _listen(self, fd: int) -> None:
        data = os.read(fd, 65536)
        if fd in self._copies:
            os.write(self._copies[fd], data)
        *lines, rest = (self._partial.get(fd, b"") + data).split(b"\n")
        if not data:
            lines, rest = [rest] if rest else [], b""
            self._poll.unregister(fd)
            os.close(fd)
            if fd in self._copies:
                os.close(self._copies.pop(fd))
        self._partial[fd] = rest
        self._log.extend(line.decode("utf-8", "replace") for line in lines)
        self._lines += len(lines)

    def reap(self) -> None:
        """Collect what has exited."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                self._exits[pid] = os.waitstatus_to_exitcode(status)

    def end(self) -> None:
        """Stop everything, without reading the parent's closed pipe, which would wake every poll."""
        self._ending = True
        for fd in (0, self._parent_fd):
            with contextlib.suppress(KeyError, OSError, ValueError):
                self._poll.unregister(fd)
        self.do_halt(self.end_signal, _GRACE)

    # -- commands --------------------------------------------------------------------------------
    def do_become(self, uid: int, directory: str) -> dict[str, Any]:
        """Spawn as user `uid` from now on, and hand over what the user so far has in `directory`."""
        before, self.uid = self.uid, uid
        # Not what we wrote: programs and configuration stay root's, for the server to read.
        for place in (directory, *_below(directory)):
            if os.lstat(place).st_uid == before:
                os.lchown(place, uid, uid)
        return {}

    def spawn(self, argv: list[str], env: dict[str, str], cwd: str, copy_to: str = "") -> int:
        """Start a program as the unprivileged user, its output read by us and appended to `copy_to`."""
        reading, writing = os.pipe()
        if copy_to:
            self._copies[reading] = os.open(copy_to, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._poll.register(reading, select.POLLIN)
        who: dict[str, Any] = {}
        if self.uid >= 0:
            who = {"user": self.uid, "group": self.uid, "extra_groups": []}
        try:
            child = subprocess.Popen(
                argv, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=writing, stderr=writing,
                preexec_fn=die_with_guardian,  # noqa: PLW1509 - one thread here
                **who,
            )  # fmt: skip
        finally:
            os.close(writing)
        child.returncode = 0  # we reap by waitpid(-1); keep Popen from ever doing so
        self._exits.pop(child.pid, None)  # an orphan's, if the number was used before
        return child.pid

    def do_run(self, argv: list[str], env: dict[str, str], cwd: str, timeout: float) -> dict[str, Any]:
        """Run a program to its end."""
        deadline = time.monotonic() + timeout
        pid = self.spawn(argv, env, cwd)
        while pid not in self._exits:
            if time.monotonic() >= deadline:
                os.kill(pid, signal.SIGKILL)
                return {"status": None, "tail": self.tail()}
            self.wait_for_event(deadline)
        return {"status": self._exits.pop(pid), "tail": self.tail()}

    def do_launch(
        self, argv: list[str], env: dict[str, str], cwd: str, timeout: float, ready: str, end_signal: int,
        copy_to: str = "",
    ) -> dict[str, Any]:  # fmt: skip
        """Start the server and wait until its log says `ready`; an empty `ready` is not waited for."""
        deadline, self.end_signal, seen = time.monotonic() + timeout, end_signal, self._lines
        self.main = pid = self.spawn(argv, env, cwd, copy_to)
        while True:
            if not ready:
                return {"pid": pid}
            new = min(self._lines - seen, len(self._log))
            if any(ready in line for line in list(self._log)[len(self._log) - new :]):
                return {"pid": pid}
            seen = self._lines
            if pid in self._exits or time.monotonic() >= deadline:
                status = self._exits.get(pid)
                self.do_halt(int(signal.SIGKILL), 0.0)
                return {"status": status, "tail": self.tail()}
            self.wait_for_event(deadline)

    def do_signal(self, number: int) -> dict[str, Any]:
        """Send a signal to the whole tree, parents first, until no newcomer is found."""
        done: set[int] = set()
        while new := [pid for pid in descendants(os.getpid()) if pid not in done]:
            for pid in new:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            done.update(new)
        return {"count": len(done)}

    def do_tell(self, number: int) -> dict[str, Any]:
        """Send a signal to the main process alone, which has the number until we collect it."""
        if self.main is not None and self.main not in self._exits:
            os.kill(self.main, number)
        return self.do_status()

    def do_status(self) -> dict[str, Any]:
        """Answer whether the main process runs, and with which status it ended."""
        alive = self.main is not None and self.main not in self._exits
        return {"alive": alive, "status": None if self.main is None else self._exits.get(self.main)}

    def do_await(self, timeout: float) -> dict[str, Any]:
        """Wait until the main process has ended by itself."""
        deadline = time.monotonic() + timeout
        while self.do_status()["alive"] and time.monotonic() < deadline:
            self.wait_for_event(deadline)
        return self.do_status()

    def do_freeze(self) -> dict[str, Any]:
        """Stop the whole tree, and answer when every process of it stands still.

        A signal is delivered when its process next runs, and what is not our own child has no event
        that tells; so this looks again until it is true.
        """
        deadline = time.monotonic() + _GRACE
        while True:
            count = self.do_signal(int(signal.SIGSTOP))["count"]
            if all(state_of(pid) in "TZ" for pid in descendants(os.getpid())):
                return {"count": count}
            if time.monotonic() >= deadline:
                raise OSError("a process does not stop: it waits for the disk, uninterruptibly")
            time.sleep(0.001)

    def do_halt(self, number: int, timeout: float) -> dict[str, Any]:
        """Signal the main process, give it `timeout`, then SIGKILL whatever is left of the tree.

        Answers with its status (None when it had to be killed), whether it had ended before it was
        signalled, and how many of its descendants it left behind.
        """
        deadline, pid, self.main = time.monotonic() + timeout, self.main, None
        self.reap()
        before = pid in self._exits
        if pid is not None and number != signal.SIGKILL:
            self.do_signal(int(signal.SIGCONT))  # a frozen process reacts to SIGKILL only
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            while pid not in self._exits and time.monotonic() < deadline:
                self.wait_for_event(deadline)
        polite = pid in self._exits
        status = self._exits.get(pid) if pid is not None else None
        left = len(descendants(os.getpid())) if polite else 0
        with contextlib.suppress(ChildProcessError):  # raised when none is left
            while True:
                self.do_signal(int(signal.SIGKILL))
                os.waitpid(-1, 0)  # what lost its parent to the kill is our child by now
        self._exits.clear()
        return {"polite": polite, "status": status, "before": before, "left": left}

    def tail(self) -> list[str]:
        """Return the end of the servers' output."""
        for fd, _event in self._poll.poll(0):
            if fd not in (0, self._wake, self._parent_fd):
                self._listen(fd)
        return list(self._log)[-30:]

    def do_tail(self) -> dict[str, Any]:
        """Answer with the end of the servers' output."""
        return {"tail": self.tail(), "alive": self.main is not None and self.main not in self._exits}

    def serve(self) -> None:
        """Answer commands for ever; leaves by `ParentGoneError`."""
        while True:
            while b"\n" not in self._heard:
                self.wait_for_event(None)
            line, _, self._heard = self._heard.partition(b"\n")
            asked = json.loads(line)
            number, do = asked.pop("id"), asked.pop("do")
            try:
                answer = getattr(self, f"do_{do}")(**asked)
            except (OSError, subprocess.SubprocessError) as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            tell({"id": number, **answer})


def _below(directory: str) -> Iterator[str]:
    for place, directories, files in os.walk(directory):
        yield from (os.path.join(place, name) for name in (*directories, *files))  # noqa: PTH118 - thousands


def tell(answer: dict[str, Any]) -> None:
    """Write one answer; the control pipe shows when the reader has gone."""
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(answer).encode() + b"\n")


def forget_shared_memory(directory: str) -> None:
    """Remove the System V segment a killed Postgres leaves; its id is line 7 of postmaster.pid."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        pidfile = Path(directory, "data", "postmaster.pid").read_text(encoding="ascii")
        segment = int(pidfile.splitlines()[6].split()[1])
        _LIBC.shmctl(segment, _IPC_RMID, None)


def main(parent: int, base: str, prefix: str, uid: int) -> None:
    """Make the directory, serve, and clean up in any case."""
    guardian: Guardian | None = None
    directory = ""
    try:
        guardian = Guardian(parent, uid)
        directory = tempfile.mkdtemp(prefix=prefix, dir=base)
        if uid >= 0:
            os.chown(directory, uid, uid)
        tell({"id": 0, "directory": directory})
        guardian.serve()
    except ParentGoneError:
        pass
    finally:
        if guardian is not None:
            guardian.end()
        if directory:
            forget_shared_memory(directory)
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
