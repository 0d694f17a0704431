"""What a forked child makes of slots that threads hold which exist only in its parent."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys
if sys.argv[1] == "patched":
    import greenkit.auto
import os
import gevent
from gevent import monkey
from greenkit.wait import WaitLine

start, allocate = (monkey.get_original("_thread", name) for name in ("start_new_thread", "allocate_lock"))
line, inside, end = WaitLine(3), allocate(), allocate()
inside.acquire()
end.acquire()

def hold():
    line.acquire(timeout=None)
    inside.release()
    end.acquire()

start(hold, ())
inside.acquire()
line.acquire(timeout=None)
waiter = None
with line.slot(timeout=None):
    waiter = gevent.spawn(line.acquire, timeout=None)
    gevent.sleep(0)
    assert line.statistics().waiting == 1
    pid = os.fork()
    if pid == 0:
        waiter.join(10)  # it has the slot of the thread that is not here
        seen = line.statistics()
        assert waiter.ready() and (seen.free, seen.waiting) == (0, 0), line
        for _ in range(3):
            line.release()
        line.release()  # of the forgotten thread: counted once, not an error
        assert line.statistics().free == 3
        try:
            line.release()
        except RuntimeError:
            os._exit(0)
        os._exit(1)
    assert line.statistics().free == 0
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.parametrize("world", ["plain", "patched"])
def test_a_child_has_the_slots_of_threads_it_does_not_have(world):
    """A native thread holds one, this one two, and one waits: in the child nobody waits for the thread's."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, world], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
