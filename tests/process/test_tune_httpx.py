"""tune_httpx() in patched interpreters, on the real packages."""

from __future__ import annotations

import importlib.util

import pytest

from greenkit.testing import run_clean

CORES = [name for name in ("httpcore2", "httpcore") if importlib.util.find_spec(name)]

COUNT = """
import gevent.monkey; gevent.monkey.patch_all()
import importlib, socket
from gevent import select
from greenkit.http import tune_httpx

trips = 0
class Counting(select.poll):
    def poll(self, timeout=None):
        global trips
        trips += 1
        return super().poll(timeout)
import select as patched
patched.poll = Counting

backend = importlib.import_module("{core}._backends.sync")
ours, theirs = socket.socketpair()

def looks():
    global trips
    trips = 0
    seen = [backend.is_socket_readable(ours)]
    theirs.send(b"x")
    seen.append(backend.is_socket_readable(ours))
    ours.recv(1)
    seen.append(backend.is_socket_readable(None))
    return seen, trips

before = looks()
tuned = tune_httpx(), tune_httpx()
after = looks()
ours.close()
gone = backend.is_socket_readable(ours)
theirs.close()
assert "{core}" in tuned[0] and tuned[0] == tuned[1], tuned
assert after == ([False, True, True], 0), after
assert before[0] == after[0] and gone is True, (before, gone)
print("needed" if before[1] else "unneeded")
"""


@pytest.mark.skipif(not CORES, reason="neither httpcore2 nor httpcore is installed")
@pytest.mark.parametrize("core", CORES)
def test_looking_at_idle_connections_makes_no_hub_trip(core):
    """Untuned every look goes through gevent's poll; tuned none does, and the answers are the same."""
    done = run_clean(COUNT.format(core=core))
    assert (done.returncode, done.stderr) == (0, ""), str(done)
    assert done.stdout == "needed\n", f"{core} no longer polls through gevent: tune_httpx() may go"


def test_the_door_loads_neither_requests_nor_httpx():
    """Importing greenkit.http costs nobody a package that is not used."""
    done = run_clean(
        "import sys, greenkit.http\n"
        "print(sorted({'requests', 'urllib3', 'httpcore', 'httpcore2', 'ssl'} & set(sys.modules)))"
    )
    assert done.stdout == "[]\n", str(done)
