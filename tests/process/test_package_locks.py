"""A package's lock from before the patch that is held across a switch: seen, repaired, joined."""

from __future__ import annotations

import json

import pytest

from greenkit.boot._held import switch_inside
from greenkit.testing import run_clean

# As sentry_sdk 2 does it (`monitor.py`): the thread is started while the lock is held, and start() waits.
PACKAGE = """import threading
class Monitor:
    def __init__(self):
        self._lock = threading.Lock()
        self._quiet = threading.Lock()
        self._thread = None
    def ensure(self):
        with self._lock:
            if self._thread is None:
                self._begin()
    def count(self):
        with self._quiet:
            return len([1])
    def _begin(self):
        thread = threading.Thread(target=print, daemon=True)
        thread.start()
        self._thread = thread
monitor = Monitor()
"""
APP = """import monitored
from gevent import monkey
monkey.patch_all()
import gevent
jobs = [gevent.spawn(monitored.monitor.ensure) for _ in range(2)]
gevent.joinall(jobs)
monitored.monitor.count()
print("answered", len([job for job in jobs if job.successful()]), flush=True)
"""


@pytest.fixture
def place(tmp_path):
    """A package that is installed, and a program that imports it before it patches."""
    packages = tmp_path / "lib" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "monitored.py").write_text(PACKAGE)
    (tmp_path / "app.py").write_text("import sys\nsys.path.append('lib/site-packages')\n" + APP)
    return tmp_path


def test_the_lock_is_the_error_when_the_hub_stands_in_it(place):
    """One finding: the lock, where it is held, the call that switches, and that the hub stood there."""
    words = ["-m", "greenkit", "doctor", "--json", "--stall", "0.7", "--", "python", "app.py"]
    run = run_clean(words, cwd=str(place))
    told = json.loads(run.stdout)
    assert told["ended"]["how"] == "stalled"
    errors = [found for found in told["findings"] if found["severity"] == "error"]
    assert [(one["id"], one["holder"], one["attribute"]) for one in errors] == [
        ("GK111", "monitored", "monitor._lock")
    ]
    assert (
        "monitored.py:10 across self._begin, which calls thread.start(), which switches"
        in errors[0]["message"]
    )
    assert errors[0]["evidence"][0].startswith("seen: the hub ")
    assert "monitored.py:8" in " ".join(errors[0]["evidence"][:4])


def test_a_lock_that_is_not_held_across_a_switch_is_information(place):
    """It is named, and no more than that."""
    program = (place / "app.py").read_text().replace("gevent.joinall(jobs)", "gevent.killall(jobs)")
    (place / "app.py").write_text(program)
    run = run_clean(["-m", "greenkit", "doctor", "--json", "--", "python", "app.py"], cwd=str(place))
    found = {
        one["attribute"] or "all": one for one in json.loads(run.stdout)["findings"] if one["id"] == "GK111"
    }
    assert found["monitor._lock"]["severity"] == "warning"
    assert found["all"]["severity"] == "info"
    assert "monitored.monitor._quiet (monitored)" in found["all"]["evidence"]


def test_the_repair_replaces_it(place):
    """The program that deadlocked answers."""
    run = run_clean(["app.py"], cwd=str(place), env={"GREENKIT_REPAIR": "1"})
    assert "answered 2" in run.stdout, run


def test_held_locks_and_those_of_conditions_stay(tmp_path):
    """A repair changes no lock somebody holds, nor one whose acquire somebody keeps."""
    program = (
        "import sys, threading\nsys.path.append('lib/site-packages')\nimport holds\n"
        "import greenkit.boot as boot\nboot.patch(repair=True)\n"
        "print([type(one).__module__ for one in (holds.free, holds.held, holds.kept)])\n"
    )
    source = (
        "import threading\nfree, held, kept = (threading.Lock() for _ in range(3))\nheld.acquire()\n"
        "take = kept.acquire\n"
    )
    packages = tmp_path / "lib" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "holds.py").write_text(source)
    run = run_clean(["-c", program], cwd=str(tmp_path))
    assert run.stdout.strip() == "['gevent.thread', '_thread', '_thread']", run


@pytest.mark.parametrize(
    ("body", "switches"),
    [
        ("self.thread.start()", True),
        ("time.sleep(1)", True),
        ("worker_thread.join()", True),
        ("', '.join(names)", False),
        ("self.started = True", False),
        ("self.timer.start()", False),
        ("self.items.append(1)", False),
        ("f = lambda: time.sleep(1)", False),
        ("def later():\n                time.sleep(1)", False),
    ],
)
def test_what_switches_inside_a_lock_is_read(tmp_path, body, switches):
    """Only calls known to switch, and only those that run there."""
    file = tmp_path / "x.py"
    file.write_text(f"class X:\n    def f(self):\n        with self.lock:\n            {body}\n")
    assert bool(switch_inside(str(file), "lock")[0]) == switches
    assert switch_inside(str(file), "other") == (0, "")


def test_the_package_that_defines_it_is_named_not_an_importer_of_it(tmp_path):
    """Two modules hold one object of a package; whose it is does not depend on the order of the heap."""
    packages = tmp_path / "lib" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "monitored.py").write_text(PACKAGE)
    (packages / "aardvark.py").write_text("from monitored import monitor\n")
    (tmp_path / "app.py").write_text(
        "import sys\nsys.path.append('lib/site-packages')\nimport aardvark\n"
        "from greenkit import boot\nboot.patch()\n"
        "print([one.holder for one in boot.evidence() if one.attribute.endswith('_lock')])\n"
    )
    run = run_clean(["app.py"], cwd=str(tmp_path))
    assert run.stdout.strip() == "['monitored']", run
