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


def test_everything_made_of_tasks(greenkit_valkey: ValkeyServer, tmp_path: Path) -> None:
    """What canvas promises, with late acks: answers, the wait of a countdown, and nothing left over."""
    url = greenkit_valkey.broker_url
    with Worker(url, url, greenkit_valkey.url, tmp_path) as worker:
        worker.notes.flushdb()
        with worker.running("-P", "gevent", "-c", "20", app="celery_canvas"):
            client = [sys.executable, str(PROGRAMS / "celery_canvas.py")]
            done = subprocess.run(
                client, env=worker.environment, capture_output=True, text=True, timeout=60, check=True
            )
            assert ast.literal_eval(done.stdout) == {
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
