from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import os, threading, time
import gevent
from greenkit.limits import Limiter

limiter = Limiter("f", requests="2/s burst 1")

def crowd():
    def one():
        with limiter.permit():
            pass
    gevent.joinall([gevent.spawn(one) for _ in range(3)])

thread = threading.Thread(target=crowd)
thread.start()
while limiter.statistics().waiting < 2:
    time.sleep(0.01)
pid = os.fork()
if not pid:
    with gevent.Timeout(10), limiter.permit():
        print("child passed,", limiter.statistics().waiting, "waiting", flush=True)
    os._exit(0)
os.waitpid(pid, 0)
thread.join()
print("parent", limiter.statistics().granted, flush=True)
"""


def test_a_forked_child_does_not_wait_for_threads_it_does_not_have():
    """The turn held by a thread of the parent is free in the child; the parent goes on."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.splitlines() == ["child passed, 0 waiting", "parent 3"], done.stderr
