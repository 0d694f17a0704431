"""A greenkit worker that fetches no more than it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.celery_worker import Worker

if TYPE_CHECKING:
    from pathlib import Path

    from greenkit.testing import ValkeyServer

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("late", [True, False])
def test_without_prefetch_tasks_that_exit_free_their_places(
    greenkit_valkey: ValkeyServer, tmp_path: Path, late: bool
) -> None:
    """Twelve sys.exit() with three slots: each a failure, and what comes after them runs at once."""
    url = greenkit_valkey.broker_url
    with Worker(url, url, greenkit_valkey.url, tmp_path) as worker:
        worker.notes.flushdb()
        conf = {"task_acks_late": late}
        with worker.running("-P", "gevent", "-c", "3", "--disable-prefetch", TEST_CONF=repr(conf)):
            for _ in range(2):
                worker.send("nap", 60)
            worker.wait(lambda: running(worker) == 2)
            gone = [worker.send("leave", "exit") for _ in range(12)]
            assert worker.send("nap", 0.01).get(timeout=30) == "done"
            failures = [result.get(timeout=10, propagate=False) for result in gone]
            assert {type(one).__name__ for one in failures} == {"WorkerLostError"}
            for _ in range(5):
                worker.send("nap", 60)
            worker.wait(lambda: running(worker) == 3)
            assert worker.notes.llen("celery") == 4, "fetched more than it runs"


def running(worker: Worker) -> int:
    (answer,) = worker.control.inspect(timeout=5, limit=1).active().values()
    return len(answer)
