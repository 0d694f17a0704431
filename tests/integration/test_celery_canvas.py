"""Chains, groups, chords, retries, replacements and waiting tasks on a greenkit worker."""

from __future__ import annotations

import ast
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.integration.celery_worker import PROGRAMS, Worker

if TYPE_CHECKING:
    from pathlib import Path

    from greenkit.testing import ValkeyServer

pytestmark = pytest.mark.filterwarnings("ignore")


def client(worker: Worker, what: str) -> subprocess.Popen[str]:
    argv = [sys.executable, str(PROGRAMS / "celery_canvas.py"), what]
    return subprocess.Popen(argv, env=worker.environment, stdout=subprocess.PIPE, text=True)


def test_everything_made_of_tasks(greenkit_valkey: ValkeyServer, tmp_path: Path) -> None:
    """What canvas promises, with late acks: answers, the wait of a countdown, and nothing left over."""
    url = greenkit_valkey.broker_url
    with Worker(url, url, greenkit_valkey.url, tmp_path) as worker:
        worker.notes.flushdb()
        with worker.running("-P", "gevent", "-c", "20", app="celery_canvas"):
            with client(worker, "ask") as asking:
                answers = asking.communicate(timeout=60)[0]
            assert ast.literal_eval(answers) == {
                "chain": 7,
                "group": [2 * number for number in range(20)],
                "chord": 2 * sum(range(20)),
                "nested": 11,
                "replace": 42,
                "retry": 2,
                "parents": [5, 5, 5, 5],
                "countdown": 2,
                "waited": True,
                "refused": "Reject",
                "many": sum(range(100)) + 100,
            }
            worker.wait(lambda: worker.notes.hlen("unacked") == 0)
            assert worker.end() == 0


def test_a_hundred_waiters_share_one_connection(greenkit_valkey: ValkeyServer, tmp_path: Path) -> None:
    """A hundred waiting tasks, and a hundred waiting greenlets of a client: one subscriber per process."""
    url = greenkit_valkey.broker_url
    with Worker(url, url, greenkit_valkey.url, tmp_path) as worker:
        worker.notes.flushdb()
        with worker.running("-P", "gevent", "-c", "150", app="celery_canvas"):
            for number in range(100):
                worker.app.send_task("celery_canvas.waiting", (number,), ignore_result=True)
            with client(worker, "wait") as waiting:
                worker.wait(lambda: subscriptions(worker) == [100, 100])
                assert len(worker.notes.client_list()) < 100, "more connections than it takes"
                worker.control.add_consumer("held")
                answers = waiting.communicate(timeout=60)[0]
            worker.wait(lambda: int(worker.notes.get("sum") or 0) == sum(range(100)) + 100)
            assert int(answers) == 2 * (sum(range(50)) + 50)


def subscriptions(worker: Worker) -> list[int]:
    """Return how many results each connection waits for that waits for any."""
    seen = [int(connection["sub"]) for connection in worker.notes.client_list()]
    # One subscription is the worker's own, by which Redis tells it of the first message in its queues.
    return [count for count in seen if count > 1]
