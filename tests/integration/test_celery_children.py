"""Tasks that wait for other tasks' results, whatever becomes of the greenlets they leave."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from greenkit.testing import RabbitServer
from tests.integration.celery_worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from greenkit.testing import ValkeyServer

pytestmark = pytest.mark.filterwarnings("ignore")
APP = """
import os, time
import greenkit.auto
from celery import Celery, group
import greenkit.celery
if os.environ["TEST_BACKEND"] == "django-db":
    import django
    from django.conf import settings
    settings.configure(INSTALLED_APPS=["django_celery_results"], USE_TZ=True, DATABASES={"default": {
        "ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["TEST_FOLDER"] + "/results.sqlite"}})
    django.setup()
    from django.core.management import call_command
    call_command("migrate", verbosity=0)
app = Celery("parents", broker=os.environ["TEST_BROKER"], backend=os.environ["TEST_BACKEND"])
greenkit.celery.install(app, children=os.environ["TEST_CHILDREN"])

@app.task
def add(x, y):
    time.sleep(0.05)
    return x + y

@app.task
def parent(n):
    sent = group(add.s(i, i) for i in range(n)).apply_async()
    with open(os.environ["TEST_FOLDER"] + "/sums", "a") as file:
        print(sum(sent.get(timeout=20, disable_sync_subtasks=False)), file=file)
"""


@pytest.fixture(scope="module")
def rabbit() -> Iterator[RabbitServer]:
    with RabbitServer() as server:
        yield server


@pytest.mark.parametrize("backend", ["redis", "rpc", "django"])
@pytest.mark.parametrize("policy", ["kill", "join", "report"])
def test_results_are_waited_for_again_and_again(
    greenkit_valkey: ValkeyServer, tmp_path: Path, request: pytest.FixtureRequest, policy: str, backend: str
) -> None:
    """What reads results is started in the first task that waits, and serves all that follow."""
    (tmp_path / "parents.py").write_text(APP)
    broker = greenkit_valkey.broker_url
    if backend == "rpc":
        broker = request.getfixturevalue("rabbit").broker_url
    results = {"redis": broker, "rpc": "rpc://", "django": "django-db"}[backend]
    environment = {"TEST_BACKEND": results, "TEST_CHILDREN": policy, "PYTHONPATH": str(tmp_path)}
    with Worker(broker, greenkit_valkey.broker_url, greenkit_valkey.url, tmp_path) as worker:
        worker.notes.flushdb()
        with worker.running("-P", "gevent", "-c", "20", app="parents", **environment):
            sums = tmp_path / "sums"
            for number in range(1, 4):  # the second time failed, or the first never ended
                worker.app.send_task("parents.parent", (4,), ignore_result=True)
                worker.wait(lambda: sums.exists() and len(sums.read_text().split()) == number)  # noqa: B023
            assert sums.read_text().split() == ["12"] * 3
            assert worker.end() == 0
            assert "left a greenlet" not in worker.text()
