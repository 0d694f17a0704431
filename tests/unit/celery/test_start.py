"""What a command line alone decides.

That a worker really ends with it is tried in `tests/process/test_celery_start.py`.
"""

from __future__ import annotations

import shlex
import sys

import pytest

from greenkit.celery import _start

CELERY = "celery -A late worker"


@pytest.fixture
def started_as(monkeypatch):
    """Give a function that makes this process one that was started as told, and looks at it."""

    def look(line, *, patched=False, stale=(), look=_start.look_at_the_command, **environ):
        monkeypatch.setattr(sys, "argv", shlex.split(line))
        monkeypatch.setattr(sys, "orig_argv", ["python", *shlex.split(line)])
        for name in ("CELERY_WORKER_POOL", "CELERY_CUSTOM_WORKER_POOL"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(_start, "patched", lambda: patched)
        monkeypatch.setattr(_start, "_stale", lambda: list(stale))
        monkeypatch.setattr(_start, "refuse_mismatches", lambda: None)
        try:
            look()
        except SystemExit as ended:
            return str(ended)
        return ""

    return look


@pytest.mark.parametrize(
    "spelling", ["-Pgevent", "-EP gevent", "-EPgevent", "-c 4 -Pgevent", "-Pgevent --detach"]
)
def test_a_spelling_celery_does_not_patch_for_is_refused(started_as, spelling):
    """The sentence says which spellings Celery patches for, and what to type with the words given."""
    said = started_as(f"{CELERY} {spelling}")
    assert "the process is not patched" in said
    assert "for `-P gevent`, `--pool gevent` and `--pool=gevent` only, two words or `=`" in said
    assert said.endswith(f"Start it as: greenkit celery -A late worker {spelling}")


def test_a_pool_of_the_environment_is_refused(started_as):
    """Celery takes the pool from there, and does not patch for it."""
    said = started_as(CELERY, CELERY_WORKER_POOL="gevent")
    assert "only, not for the environment variable CELERY_WORKER_POOL" in said
    assert started_as(f"{CELERY} -P solo", CELERY_WORKER_POOL="gevent") == ""


@pytest.mark.parametrize(
    "line", [f"{CELERY} -Pthreads", CELERY, "celery -A late beat", "manage.py runserver -Pgevent"]
)
def test_what_needs_no_patch_goes_on(started_as, line):
    """Other pools, other commands and other programs may import the app unpatched."""
    assert started_as(line) == ""


@pytest.mark.parametrize("pool", ["-Pgevent", "-Pprefork", "-Pthreads", "-Psolo", ""])
def test_a_late_patch_is_refused_whatever_the_pool(started_as, pool):
    """What Celery bound before is named, and the remedy is the pool's own."""
    said = started_as(f"{CELERY} {pool}", patched=True, stale=["kombu.utils.eventio._selectf"])
    assert "patched this process after Celery was imported (kombu.utils.eventio._selectf)" in said
    assert ("Start it as: greenkit celery -A late" in said) is (pool == "-Pgevent")
    assert ("Put `import greenkit.auto`" in said) is (pool != "-Pgevent")


@pytest.mark.parametrize("pool", ["gevent", "greenkit.celery:TaskPool", "celery.concurrency.gevent:TaskPool"])
@pytest.mark.parametrize(
    ("line", "why"),
    [
        (CELERY, "Celery reads `worker_pool` too late to patch. Start it as: greenkit celery -A late worker"),
        ("start.py worker", "`worker_main()` never patches. Make `import greenkit.auto` line 1 of start.py"),
    ],
)
def test_a_green_pool_of_the_configuration_is_refused(started_as, pool, line, why):
    """It is known once the pool's class is, whichever green pool it is."""
    said = started_as(line, look=lambda: _start.look_at_the_process(pool, green=True))
    assert "the process is not patched" in said
    assert why in said


def test_a_patched_prefork_worker_is_refused(started_as):
    """Its children could not be stopped."""
    prefork = "celery.concurrency.prefork:TaskPool"
    said = started_as(CELERY, patched=True, look=lambda: _start.look_at_the_process(prefork, green=False))
    assert f"its pool is {prefork}" in said
