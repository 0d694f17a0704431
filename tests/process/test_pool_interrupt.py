"""Ctrl-C while a pool works, in an interpreter of its own."""

from __future__ import annotations

import pytest

from greenkit.testing import run_clean

PROGRAM = """
import gevent.monkey; gevent.monkey.patch_all()
import gc, itertools, signal, sys, gevent
from greenkit.pool import GreenPool

way, moment = sys.argv[1], float(sys.argv[2])

def work(item):
    gevent.sleep(0.001)
    for _ in range(2000):  # the signal may strike here, in a child
        pass
    return item

def source():
    for item in itertools.count():
        yield item

# What Ctrl-C does to Python, at a moment nobody in here chooses.
signal.signal(signal.SIGALRM, signal.default_int_handler)

struck = False
pool = GreenPool(20)
# Again, should it strike where Python itself ignores it, as in a weak reference's callback.
signal.setitimer(signal.ITIMER_REAL, moment, 4.0)
try:
    with pool:
        if way == "spawn":
            while True:
                pool.spawn(work, 1)
        if way == "break":
            while True:
                for _ in pool.stream(work, source()):
                    break
        for _ in getattr(pool, way)(work, source()):
            pass
except KeyboardInterrupt:
    signal.setitimer(signal.ITIMER_REAL, 0)
    struck = True
left = [one for one in gc.get_objects() if isinstance(one, gevent.Greenlet) and one]  # those that run
seen = pool.statistics()
print(struck, len(left), seen.children, seen.started > 0)
"""


@pytest.mark.parametrize("moment", [0.05, 0.111, 0.173])
@pytest.mark.parametrize("way", ["spawn", "stream", "imap", "map", "break"])
def test_ctrl_c_ends_everything_and_is_not_swallowed(tmp_path, way, moment):
    """Wherever it strikes, the main greenlet gets KeyboardInterrupt and no child is left."""
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    done = run_clean([str(file), way, str(moment)], timeout=20)
    assert done.stdout == "True 0 0 True\n", str(done)
    assert done.returncode == 0, str(done)
    assert ", in work" not in done.stderr, f"raised where it belongs, and printed too: {done}"
    assert ", in source" not in done.stderr, f"raised where it belongs, and printed too: {done}"
