"""`celery greenkit doctor --worker` asks a running worker through the broker."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.integration.celery_worker import PROGRAMS, Worker

if TYPE_CHECKING:
    from pathlib import Path

    from greenkit.testing import ValkeyServer

pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_running_worker_answers_for_itself(greenkit_valkey: ValkeyServer, tmp_path: Path) -> None:
    """Its patch, its findings and its pools, from its own process."""
    url = greenkit_valkey.broker_url
    with Worker(url, url, greenkit_valkey.url, tmp_path) as worker, worker.running():
        done = subprocess.run(
            [sys.executable, "-m", "celery", "-A", "celery_app", "greenkit", "doctor", "--worker", "--json"],
            cwd=PROGRAMS, env=worker.environment, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    told = json.loads(done.stdout)
    assert done.returncode == 0, done
    assert told["patched"] is True
    (process,) = told["processes"]
    assert process["worker"].startswith("celery@")
    assert process["pid"] == worker.process.pid
    assert "pool" in told["live"][process["worker"]]
