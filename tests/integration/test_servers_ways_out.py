"""Whatever ends the process that owns a server, the server ends and its directory goes."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

from tests.integration.server_processes import Program

# Each server meets each end, and each kind of owner does: who the owner is does not reach the server.
OWNED = pytest.mark.parametrize(
    ("kind", "patched"),
    [("postgres", False), ("valkey", False), ("valkey", True)],
    ids=["plain-postgres", "plain-valkey", "patched-valkey"],
)
WAIT = "server.start(); tell(); sys.stdin.readline()"


@pytest.fixture
def base():
    """A temporary directory the unprivileged user can walk through, with a short name."""
    path = Path(tempfile.mkdtemp(prefix="gk-", dir="/tmp"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


def assert_nothing_left(program, base, *, processes=2):
    assert len(program.tree) >= processes, "the server was not running when its owner ended"
    assert program.survivors() == []
    assert list(base.iterdir()) == []


@OWNED
@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("with server: tell()", 0),
        ("with server:\n    tell()\n    raise SystemExit(3)", 3),
        ("with server:\n    tell()\n    1/0", 1),
        ("server.start(); tell()", 0),
        ("server.start(); tell(); os._exit(4)", 4),
    ],
    ids=["block", "exit-in-block", "exception", "atexit", "no-atexit"],
)
def test_nothing_is_left_when_the_program_ends(base, kind, patched, body, status):
    """The end of the block, an exception, and each kind of exit stop the server and remove its directory."""
    # The program waits until its processes were counted.
    program = Program(kind, body.replace("tell()", "tell(); sys.stdin.readline()"), base, patched=patched)
    assert program.directory.parent == base
    program.child.stdin.write("\n")
    assert program.finish() == status, program.err
    assert_nothing_left(program, base)


@OWNED
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_when_a_signal_ends_the_program(base, kind, patched, number):
    """Ctrl-C, SIGTERM and SIGKILL of the owner stop the server and remove its directory."""
    program = Program(kind, WAIT, base, patched=patched)
    program.child.send_signal(number)
    assert program.finish() != 0
    assert_nothing_left(program, base)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_broker(base, needs_rabbitmq, number):
    """RabbitMQ goes with its owner, and so do its name daemon and its port programs."""
    program = Program("rabbitmq", WAIT, base)
    names = {Path(f"/proc/{pid}/comm").read_text().strip() for pid in program.tree}
    assert {"epmd", "beam.smp"} <= names, "the processes that could be forgotten were not there"
    program.child.send_signal(number)
    program.finish()
    assert_nothing_left(program, base)


def test_nothing_is_left_of_a_start_cut_short(base):
    """An owner killed in the middle of initdb leaves neither initdb nor the directory."""
    body = """
from greenkit.testing._guardian_process import GuardianProcess
def asked_to_run(self, number, deadline, answer=GuardianProcess._answer):
    if number == 1:  # initdb was asked for; its answer will never be read
        tell_guard(self)
        os.kill(os.getpid(), signal.SIGKILL)
    return answer(self, number, deadline)
def tell_guard(guard):
    server._guardian = guard
    tell()
    sys.stdin.readline()
GuardianProcess._answer = asked_to_run
server.start()
"""
    program = Program("postgres", body, base)
    program.child.stdin.write("\n")
    assert program.finish() == -signal.SIGKILL
    assert_nothing_left(program, base, processes=1)


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_a_forked_child_does_not_keep_the_server(base, end):
    """A child that outlives its parent holds no pipe that keeps the server alive."""
    body = """
server.start()
child = os.fork()
if child == 0:
    os.close(1); os.close(2)
    signal.pause()
tell()
sys.stdin.readline()
print(child, flush=True)
server.stop() if sys.stdin.readline() == "stop\\n" else os.kill(os.getpid(), signal.SIGKILL)
"""
    program = Program("valkey", body, base)
    program.child.stdin.write("\n")
    program.child.stdin.flush()
    child = int(program.child.stdout.readline())
    program.child.stdin.write(f"{end}\n")
    program.finish()
    try:
        assert_nothing_left(program, base)
        os.kill(child, 0)  # raises when the child was not there to hold the pipe
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_killed_guardian_takes_its_server_along(base):
    """Even SIGKILL of the guardian leaves no process, and the owner removes the directory."""
    body = "server.start(); tell(); sys.stdin.readline(); server.stop()"
    program = Program("postgres", body, base)
    os.kill(program.guardian, signal.SIGKILL)
    assert program.survivors() == []
    program.child.stdin.write("\n")
    assert program.finish() == 0, program.err
    assert list(base.iterdir()) == []


def test_a_server_left_behind_would_be_seen(base):
    """A guardian that cannot act leaves its server running, and the check used above says so."""
    program = Program("valkey", WAIT, base)
    os.kill(program.guardian, signal.SIGSTOP)
    program.child.kill()
    program.finish()
    try:
        assert set(program.survivors(timeout=0)) == set(program.tree)
        assert list(base.iterdir()) == [program.directory]
    finally:
        os.kill(program.guardian, signal.SIGCONT)
    assert_nothing_left(program, base)
