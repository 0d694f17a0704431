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


OTHER_THREAD = """
import os
import threading
from greenkit.wait import WaitLine

line, codes = WaitLine(4), []
line.acquire(timeout=None)

def fork():
    line.acquire(timeout=None)
    line.acquire(timeout=None)
    line.release()
    pid = os.fork()
    if pid == 0:
        held = line.statistics().in_use  # its own; that of the thread which made the line is free
        line.release()
        line.release()  # of the forgotten thread
        os._exit(held != 1 or line.statistics().free != 4)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

thread = threading.Thread(target=fork)
thread.start()
thread.join()
line.release()  # what the other thread acquired
assert line.statistics().in_use == 1
line.release()
assert codes == [0] and line.statistics().free == 4, (codes, line)
"""


def test_a_thread_that_forks_keeps_its_own_slots_only():
    """The line was made, and a slot is held, in another thread than the one that forks."""
    done = subprocess.run(
        [sys.executable, "-c", OTHER_THREAD], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


FIRST_CHILD = """
import sys
if sys.argv[1] == "with":
    import greenkit.auto
else:
    from gevent import monkey
    monkey.patch_all()
import os
import gevent
from gevent import monkey

native_sleep = monkey.get_original("time", "sleep")
# The child has ended before gevent watches it.
os.register_at_fork(after_in_parent=lambda: native_sleep(0.5))
pid = os.fork()
if pid == 0:
    os._exit(7)
with gevent.Timeout(5, False):
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.parametrize(("who", "said"), [("with", "7"), ("without", "")])
def test_the_first_child_may_end_at_once(who, said):
    """Gevent alone waits for it for ever: it installs its handler of SIGCHLD after the fork."""
    done = subprocess.run(
        [sys.executable, "-c", FIRST_CHILD, who], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout.strip(), done.returncode) == (said, 0), done.stderr
