"""`celery -P gevent` with install(app) in its module and nothing else: the patch is Celery's."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import pytest

from greenkit.testing import ValkeyServer
from tests.integration.celery_worker import Worker

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore")
APP = """
import json, os
from celery import Celery
import greenkit.celery
import psycopg2.extensions
app = Celery("plain", broker=os.environ["TEST_BROKER"])
app.conf.broker_connection_retry_on_startup = True
greenkit.celery.install(app)
@app.task(ignore_result=True)
def look():
    import asyncio
    callback = psycopg2.extensions.get_wait_callback()
    with open(os.environ["TEST_FOLDER"] + "/seen", "w") as file:
        json.dump([callback.__module__ if callback else "none"], file)
"""


@pytest.mark.parametrize(("mode", "module"), [("", "greenkit.postgres"), ("off", "none")])
def test_drivers_are_served_without_a_line_1(
    greenkit_valkey: ValkeyServer, tmp_path: Path, mode: str, module: str
) -> None:
    """What `import greenkit.auto` does for drivers, the worker's start does too, unless GREENKIT=off."""
    (tmp_path / "plain.py").write_text(APP)
    url = greenkit_valkey.broker_url
    with Worker(url, url, greenkit_valkey.url, tmp_path) as worker:
        worker.notes.flushdb()
        with worker.running(
            "-P", "gevent", "-c", "2", app="plain", PYTHONPATH=str(tmp_path), GREENKIT=mode
        ):  # fmt: skip
            worker.app.send_task("plain.look")
            worker.wait((tmp_path / "seen").exists)
            worker.wait((tmp_path / "seen").read_text)
            (seen,) = json.loads((tmp_path / "seen").read_text())
            assert seen.startswith(module)
            assert worker.end() == 0


@pytest.mark.parametrize("told", ["", "Connection to broker lost", "Trying again in"])
def test_a_stop_without_a_broker_ends_in_good_order(tmp_path: Path, told: str) -> None:
    """Gossip and mingle on, the broker killed just before, while it is noticed, while it is waited for."""
    (tmp_path / "plain.py").write_text(APP)
    with ValkeyServer(own=True) as server, ValkeyServer(own=True) as notes:
        urls = server.broker_url, notes.broker_url, notes.url
        with Worker(*urls, tmp_path) as worker, worker.running(
            "-P", "gevent", "-c", "2", app="plain", PYTHONPATH=str(tmp_path)
        ):  # fmt: skip
            server.kill()
            worker.wait(lambda: told in worker.text())
            assert worker.end(signal.SIGTERM) == 0
            assert "Traceback" not in worker.text()
