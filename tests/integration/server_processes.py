"""Run a program that owns embedded servers, and wait for the end of every process it started."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path

CLASSES = {"postgres": "PostgresServer", "valkey": "ValkeyServer", "rabbitmq": "RabbitServer"}

PROGRAM = """
import json, os, signal, sys
if "patched" in sys.argv:
    from gevent import monkey; monkey.patch_all()
import greenkit.testing as testing
server = getattr(testing, sys.argv[1])(own=True)
def tell():
    guard = server._guardian
    print(json.dumps({"directory": guard.directory, "guardian": guard._process.pid}), flush=True)
"""


class Program:
    """A child that printed which server it runs."""

    def __init__(self, kind: str, body: str, base: Path, *, patched: bool = False) -> None:
        argv = [sys.executable, "-c", PROGRAM + body, CLASSES[kind], *(["patched"] if patched else [])]
        self.child = subprocess.Popen(
            argv,
            env={**os.environ, "TMPDIR": str(base)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        line = self.child.stdout.readline()
        assert line, self.child.stderr.read()
        told = json.loads(line)
        self.directory = Path(told["directory"])
        self.guardian = told["guardian"]
        # Opened while they live: a number can be used again, an open pidfd cannot.
        self.tree = {}
        for pid in (self.guardian, *below(self.guardian)):
            with contextlib.suppress(ProcessLookupError):
                self.tree[pid] = os.pidfd_open(pid)

    def finish(self, timeout: float = 30.0) -> int:
        """Wait for the program and read the rest of its output."""
        self.out, self.err = self.child.communicate(timeout=timeout)
        return self.child.returncode

    def survivors(self, timeout: float = 20.0) -> list[int]:
        """Wait for the end of every process of the tree; return those that did not end."""
        poll = select.poll()
        waiting = {fd: pid for pid, fd in self.tree.items()}
        for fd in waiting:
            poll.register(fd, select.POLLIN)
        deadline = time.monotonic() + timeout
        while waiting and (left := deadline - time.monotonic()) > 0:
            for fd, _ in poll.poll(left * 1000):
                poll.unregister(fd)
                os.close(fd)
                del waiting[fd]
        return list(waiting.values())


def stat_of(pid: int) -> list[str]:
    """Return the fields of /proc/<pid>/stat from the state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def below(root: int) -> list[int]:
    """Return every descendant of a process."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int(stat_of(int(entry.name))[1])
    found, queue = [], [root]
    while queue:
        parent = queue.pop()
        children = [pid for pid, its in parents.items() if its == parent]
        found += children
        queue += children
    return found
