"""What people use with Celery, on a greenkit worker: Django's tables, rate limits, a test worker."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from greenkit.testing import run_clean
from tests.integration.celery_worker import PROGRAMS, Worker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from greenkit.testing import ValkeyServer

pytestmark = pytest.mark.filterwarnings("ignore")


class Friends:
    """A Django project's worker, and its other programs."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.run("migrate")

    def run(self, what: str):
        client = [sys.executable, str(PROGRAMS / "celery_friends.py"), what]
        done = subprocess.run(
            client, env=self.worker.environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout or "null")


@pytest.fixture
def friends(greenkit_valkey: ValkeyServer, greenkit_database: str, tmp_path: Path) -> Iterator[Friends]:
    """Give a project with an empty database, its worker running."""
    url = greenkit_valkey.broker_url
    with Worker(url, url, greenkit_valkey.url, tmp_path) as worker:
        worker.notes.flushdb()
        worker.environment["TEST_DATABASE"] = greenkit_database
        made = Friends(worker)
        with worker.running("-P", "gevent", "-c", "20", app="celery_friends"):
            yield made
            assert worker.end() == 0


def test_results_in_djangos_table(friends: Friends) -> None:
    """django-celery-results keeps every answer, over no more connections than the pool has."""
    assert friends.run("ask") == [2 * number for number in range(60)]
    seen = friends.run("results")
    assert (seen["done"], seen["of_21"]) == (60, 1)
    assert seen["open"] <= 4 + 1, "the pool's, and that of who asked"


def test_celerys_own_rate_limit(friends: Friends) -> None:
    """Twenty tasks at 20/s take the best part of a second, whoever else there is room for."""
    assert friends.run("rates") >= 0.9


if sys.version_info < (3, 12):  # django-celery-beat admits no Django 6.1 yet, which newer Pythons have

    def test_a_schedule_in_djangos_table(friends: Friends) -> None:
        """django-celery-beat, in a process of its own, sends what its table says, and the worker does it."""
        friends.run("schedule")
        worker = friends.worker
        argv = [sys.executable, "-m", "celery", "-A", "celery_friends", "beat", "--max-interval", "1"]
        argv += ["--scheduler", "django", "--pidfile", "", "-l", "INFO"]
        beat = subprocess.Popen(
            argv, cwd=PROGRAMS, env=worker.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            worker.wait(lambda: friends.run("results")["of_21"] >= 3)
        finally:
            beat.terminate()
            assert beat.wait(20) == 0


def test_celerys_own_test_worker() -> None:
    """celery.contrib.testing's worker, a thread of an unpatched process, runs tasks and stops."""
    run = run_clean([str(PROGRAMS / "celery_contrib.py")])
    assert run.returncode == 0, str(run)
    assert run.json == list(range(1, 11))
