"""The pytest plugin in suites of its own: what fails, what it says, and whom it works beside."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from greenkit.testing import CleanRun, run_clean

HEAD = """
import gevent
import pytest
from gevent.monkey import get_original

native_sleep = get_original("time", "sleep")
guarded = pytest.mark.greenkit_hub(max_block=0.05)


def hold():
    native_sleep(0.4)

"""


EARLY = ("-p", "greenkit.testing.early")
ALONE = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "greenkit.testing.fixtures"}


def suite(tmp: Path, tests: str, *arguments: str, ini: str = "", alone: bool = True) -> CleanRun:
    """Run a suite of one file, without any other plugin or with all that are installed."""
    (tmp / "test_shop.py").write_text(HEAD + tests)
    (tmp / "pytest.ini").write_text(f"[pytest]\n{ini}\n")
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    return run_clean(command, cwd=str(tmp), env=ALONE if alone else {})


def counts(run: CleanRun) -> dict[str, int]:
    """Return {outcome: how many} of pytest's last line."""
    last = run.stdout.strip().splitlines()[-1]
    return {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error)", last)}


BAD = """
@guarded
def test_blocks(): gevent.spawn(hold).join()

@pytest.mark.greenkit_hub(max_block=0.05, forbid=False)
def test_blocks_with_leave(): gevent.spawn(hold).join()

@guarded
def test_leaks():
    gevent.spawn(gevent.sleep, 60)
    gevent.sleep(0)

@pytest.mark.greenkit_hub(forbid=False)
def test_blocks_at_its_very_end(): hold()
"""

GOOD = """
@guarded
def test_waits(): gevent.sleep(0.1)

@guarded
def test_ends_what_it_began(): gevent.joinall([gevent.spawn(gevent.sleep, 0.01) for _ in range(9)])

@guarded
def test_whose_greenlets_are_about_to_end():
    gevent.spawn(gevent.sleep, 0.01)
    gevent.sleep(0)

@pytest.mark.greenkit_hub(max_leaked=1)
def test_may_leak_one():
    gevent.spawn(gevent.sleep, 60)
    gevent.sleep(0)

@pytest.mark.greenkit_hub(max_block=None, allow=["time.sleep"])
def test_may_block(): hold()

def test_knows_its_block(greenkit_hub):
    with greenkit_hub.expected():
        hold()

def test_is_not_guarded(): hold()
"""


def test_a_test_that_holds_the_hub_fails(tmp_path: Path) -> None:
    """With the line, the call and the greenlet; a leak with what it runs and where it was spawned."""
    run = suite(tmp_path, BAD, *EARLY)
    assert counts(run) == {"failed": 4}, run
    assert "blocking call: time.sleep() would block the hub" in run.stdout
    found = re.findall(
        r"the hub was blocked for 0\.\d+ s \(at most (\S+) allowed\) in (\S+) (\w+), calling (\S+),",
        run.stdout,
    )
    # Where CI is set, pytest says it all once more in its summary.
    blocked = list(dict.fromkeys((limit, function, call) for limit, _, function, call in found))
    assert blocked == [
        ("0.05", "hold", "time.sleep"),
        ("0.1", "hold", "time.sleep"),
    ]
    leak = re.search(r"1 greenlet\(s\) outlived the test.*\n\s*(.*gevent.hub.sleep>.*)", run.stdout)
    assert leak is not None
    assert re.search(r"spawned at \S+test_shop.py:\d+ test_leaks", leak[1])


def test_a_good_suite_passes(tmp_path: Path) -> None:
    """Nothing cooperative, allowed or excused is a fault."""
    run = suite(tmp_path, GOOD, *EARLY)
    assert counts(run) == {"passed": 7}, run


def test_strict_guards_every_test(tmp_path: Path) -> None:
    """By the option and by the ini file, whose values hold where the marker says nothing."""
    unmarked = "def test_blocks(): hold()\n\ndef test_waits(): gevent.sleep(0.01)\n"
    assert counts(suite(tmp_path, unmarked)) == {"passed": 2}
    assert counts(suite(tmp_path, unmarked, "--greenkit-strict")) == {"passed": 1, "failed": 1}
    assert counts(suite(tmp_path, unmarked, ini="greenkit_strict = true")) == {"passed": 1, "failed": 1}
    off = "greenkit_strict = true\ngreenkit_forbid = false\ngreenkit_max_block = off\n"
    assert counts(suite(tmp_path, unmarked, ini=off)) == {"passed": 2}
    allowed = "greenkit_strict = true\ngreenkit_max_block = 5\ngreenkit_allow =\n    test_shop.py:hold\n"
    assert counts(suite(tmp_path, unmarked, ini=allowed)) == {"passed": 2}


COUNTED = """
from greenkit.watchdog import _calls, _frames, _sentry
seen = {"walks": 0, "threads": 0, "installed": 0}

def counted(module, name, what):
    function = getattr(module, name)
    def call(*arguments):
        seen[what] += 1
        return function(*arguments)
    setattr(module, name, call)

counted(_frames, "_greenlets", "walks")
counted(_sentry, "_start_thread", "threads")
counted(_calls, "_install", "installed")

def pytest_unconfigure():
    with open("seen", "w") as file:
        print(*seen.values(), file=file)
"""


def test_what_guards_a_test_stays_for_the_next(tmp_path: Path) -> None:
    """One walk over all objects, one native thread and one listener serve a suite, whatever it spawns."""
    (tmp_path / "conftest.py").write_text(COUNTED)
    tests = "".join(f"def test_{number}(): pass\n" for number in range(5))
    tests += "def test_spawns(): gevent.spawn(gevent.sleep, 0.01).join()\n"
    tests += "def test_leaks():\n    gevent.spawn(gevent.sleep, 60)\n    gevent.sleep(0)\n"
    tests += "def test_leaks_raw():\n    gevent.spawn_raw(gevent.sleep, 60)\n    gevent.sleep(0)\n"
    tests += "def test_is_not_blamed_for_them(): gevent.sleep(0.01)\n"
    run = suite(tmp_path, tests, *EARLY, "--greenkit-strict")
    assert counts(run) == {"passed": 7, "failed": 2}, run
    walks, threads, installed = (tmp_path / "seen").read_text().split()
    assert (walks, threads) == ("1", "1")
    # Before 3.12 it is a profile function, which costs nothing to set.
    assert installed == "1" or sys.version_info < (3, 12)


def test_a_tracer_that_is_taken_away_is_made_good(tmp_path: Path) -> None:
    """A test that sets one of its own is looked at as before, by a walk."""
    tests = """
import greenlet

def test_takes_it_and_leaks():
    greenlet.settrace(lambda *_: None)
    gevent.spawn(gevent.sleep, 60)
    gevent.sleep(0)

def test_is_heard_again():
    gevent.spawn(gevent.sleep, 60)
    gevent.sleep(0)

def test_is_right(): gevent.sleep(0)
"""
    run = suite(tmp_path, tests, *EARLY, "--greenkit-strict")
    assert counts(run) == {"passed": 1, "failed": 2}, run


def test_a_test_that_fails_anyway_keeps_its_own_error(tmp_path: Path) -> None:
    """The first cause is the test's; the guard adds nothing to it."""
    run = suite(tmp_path, "@guarded\ndef test_fails():\n    gevent.spawn(hold).join()\n    assert 1 == 2\n")
    assert counts(run) == {"failed": 1}
    assert "assert 1 == 2" in run.stdout
    assert "blocking call" not in run.stdout


@pytest.mark.parametrize(
    ("ini", "mark", "words"),
    [
        ("greenkit_max_block = fast", "", "greenkit_max_block='fast' is neither seconds nor off"),
        ("greenkit_max_leaked = 0.5", "", "greenkit_max_leaked='0.5' is neither a whole number nor off"),
        ("", "@pytest.mark.greenkit_hub(0.1)", "takes max_block, max_leaked, forbid, allow by name, not 0.1"),
        ("", "@pytest.mark.greenkit_hub(limit=1)", "by name, not limit"),
        ("", "@pytest.mark.greenkit_hub(max_block='x')", "max_block is 'x'"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, ini: str, mark: str, words: str) -> None:
    """With its value and what it may be."""
    run = suite(tmp_path, f"{mark}\ndef test_one(): pass\n", ini=ini)
    assert run.returncode != 0
    assert words in run.stdout + run.stderr, run


def test_beside_other_plugins(tmp_path: Path) -> None:
    """In random order, under a time-out, with a Django database."""
    (tmp_path / "settings.py").write_text(
        "DATABASES = {'default': {'ENGINE': 'django.db.backends.sqlite3', 'NAME': ':memory:'}}\n"
        "INSTALLED_APPS = ['django.contrib.contenttypes', 'django.contrib.auth']\n"
        "SECRET_KEY = 'x'\n"
    )
    django = """
@pytest.mark.django_db
@pytest.mark.greenkit_hub(max_block=5)
def test_a_row():
    from django.contrib.auth.models import Group

    Group.objects.create(name="one")
    assert Group.objects.count() == 1

@pytest.mark.timeout(1)
@guarded
def test_hangs(): gevent.sleep(60)
"""
    ini = "DJANGO_SETTINGS_MODULE = settings\npythonpath = .\ntimeout = 60\n"
    run = suite(tmp_path, GOOD + BAD + django, *EARLY, "-p", "randomly", ini=ini, alone=False)
    assert counts(run) == {"passed": 8, "failed": 5}, run
    assert "Timeout" in run.stdout


def test_on_two_workers(tmp_path: Path) -> None:
    """pytest-xdist runs a guarded suite unpatched; patched, it is told what cannot work."""
    run = suite(tmp_path, GOOD + BAD, "-n", "2", alone=False)
    assert counts(run) == {"passed": 7, "failed": 4}, run
    run = suite(tmp_path, GOOD, *EARLY, "-n", "2", alone=False)
    assert "exclude each other" in run.stderr + run.stdout
