"""A program under test is started, hurt and brought back, and how each of its lives ended is known."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from greenkit.errors import GreenkitError, ServerStartError
from greenkit.testing import Program, ProgramEnd
from tests.integration.server_processes import stat_of

# Writes "ready", then sleeps; ends with 7 on SIGTERM unless it is deaf, and may start a child first.
SOURCE = """
import os, signal, subprocess, sys, time
if "child" in sys.argv:
    child = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL)
    print("child", child.pid)
signal.signal(signal.SIGTERM, signal.SIG_IGN if "deaf" in sys.argv else lambda *_: os._exit(7))
signal.signal(signal.SIGUSR1, lambda *_: os._exit(3))
print("ready", os.environ.get("WORD"), os.getcwd(), flush=True)
if "crash" in sys.argv:
    sys.exit(4)
time.sleep(600)
"""


def program(*how, **options):
    return Program([sys.executable, "-c", SOURCE, *how], **{"ready": "ready", **options})


def gone(pid):
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return stat_of(pid)[0] == "Z"
    return True


def test_each_end_is_known():
    """Killed, stopped, stopped in vain and ended by itself: status and cause of each."""
    with program() as one:
        pids = [one.pid]
        assert one.running
        assert one.kill() == ProgramEnd(pids[0], -9, "kill")
        assert not one.running
        pids.append(one.start().pid)
        assert one.restart() == ProgramEnd(pids[1], 7, "stop")
        pids.append(one.pid)
        one.signal(signal.SIGUSR1)
        assert one.wait(30) == ProgramEnd(pids[2], 3, "")
    assert [end.by_itself for end in one.ends] == [False, False, True]
    assert len(set(pids)) == 3
    assert all(gone(pid) for pid in pids)


def test_an_end_by_itself_is_noted_whoever_looks():
    """`running` notes it, and a kill or a stop that comes too late is not taken for its cause."""
    for look in (lambda one: one.running, Program.kill, Program.stop):
        with program() as one:
            one.signal(signal.SIGUSR1)
            deadline = time.monotonic() + 20
            while not gone(one.pid) and time.monotonic() < deadline:
                time.sleep(0.01)
            look(one)
            assert [(end.status, end.by_itself) for end in one.ends] == [(3, True)]


def test_one_that_does_not_stop_is_killed():
    """After the time given to it; the end says that it was forced."""
    with program("deaf") as one:
        end = one.stop(timeout=0.2)
    assert (end.status, end.asked, end.forced) == (-9, "stop", True)


def test_what_it_leaves_behind_is_counted_and_ended(tmp_path):
    """A child that outlives it is counted, and gone."""
    log = tmp_path / "log"
    with program("child", log=log) as one:
        child = int(log.read_text().split()[1])
        assert not gone(child)
        end = one.stop()
    assert (end.status, end.left) == (7, 1)
    assert gone(child)


def test_frozen_it_stands_still():
    """Every process of it is stopped until it is thawed; a stop ends a frozen one too."""
    with program() as one:
        one.freeze()
        assert stat_of(one.pid)[0] == "T"
        one.thaw()
        assert stat_of(one.pid)[0] in "SR"
        one.freeze()
        assert one.stop().status == 7


def test_environment_directory_and_output(tmp_path, monkeypatch):
    """It has our environment and what is given on top; its output is appended to the file."""
    monkeypatch.setenv("WORD", "outer")
    log = tmp_path / "log"
    with program(cwd=tmp_path, log=log) as one:
        assert f"ready outer {tmp_path}" in one.log_tail()
        one.kill()
        one.env["WORD"] = "inner"
        one.start()
        one.kill()
        one.env["WORD"] = None
        one.start()
    assert [line.split()[1] for line in log.read_text().splitlines()] == ["outer", "inner", "None"]


def test_one_that_does_not_start_says_why():
    """The error ends with what it wrote; so does one that is never ready."""
    with pytest.raises(ServerStartError, match=r"(?s)ended with status 4.*ready None"):
        program("crash", ready="never").start()
    with pytest.raises(ServerStartError, match=r"did not in time"):
        program(ready="never", start_timeout=0.5).start()


def test_wrong_use_is_named():
    """A command line as text, and a signal to what does not run."""
    with pytest.raises(TypeError, match="takes a list of arguments"):
        Program("sleep 60")
    one = program()
    for wrong in (one.kill, one.freeze, lambda: one.pid, lambda: one.wait(0)):
        with pytest.raises(GreenkitError, match=r"Call start\(\) first"):
            wrong()
    with pytest.raises(GreenkitError, match="it was never started"):
        one.log_tail()


def test_it_does_not_outlive_its_owner():
    """A SIGKILL of the process that started it ends it, and its child."""
    owner = f"""
import sys, time
from greenkit.testing import Program
one = Program([sys.executable, "-c", {SOURCE!r}, "child"], ready="ready").start()
print(one.pid, one.log_tail().split()[1], flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", owner], stdout=subprocess.PIPE, text=True) as process:
        pids = [int(word) for word in process.stdout.readline().split()]
        directories = {Path(f"/proc/{pid}") for pid in pids}
        assert all(place.exists() for place in directories)
        os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while not all(gone(pid) for pid in pids):
        assert time.monotonic() < deadline, pids
        time.sleep(0.02)
