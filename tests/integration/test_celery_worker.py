"""A greenkit worker against a real Valkey: delivery, limits, ends of tasks, shutdown."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.integration.celery_worker import Worker

if TYPE_CHECKING:
    from pathlib import Path

    from greenkit.testing import ValkeyServer

pytestmark = pytest.mark.filterwarnings("ignore")


def unacked(worker: Worker) -> int:
    return int(worker.notes.hlen("unacked"))


def queued(worker: Worker) -> int:
    return int(worker.notes.llen("celery"))


def test_late_acks_of_many_tasks_at_once_run_each_task_once(worker: Worker) -> None:
    """300 late-ack tasks at concurrency 100: each ran once, and nothing is left unacknowledged."""
    for number in range(300):
        worker.send("count", number, 0.3)
    with worker.running("-P", "gevent", "-c", "100"):
        worker.wait(lambda: int(worker.notes.get("ended") or 0) >= 300)
        worker.wait(lambda: unacked(worker) == 0)
        runs = {int(count) for count in worker.notes.hvals("runs")}
        assert runs == {1}
        assert worker.notes.hlen("runs") == 300
        assert "Couldn't ack" not in worker.text()
        assert worker.end() == 0


def test_every_exception_becomes_a_result_and_an_ack(worker: Worker) -> None:
    """sys.exit, gevent.Timeout, GreenletExit and the rest end as FAILURE; no ghost, no poison."""
    with worker.running():
        ways = ("exit", "timeout", "killed", "cancelled", "interrupt", "memory")
        results = [worker.send("leave", how) for how in ways]
        for result in results:
            worker.wait(lambda result=result: result.state == "FAILURE")
        worker.wait(lambda: unacked(worker) == 0)
        active = worker.control.inspect(timeout=2).active()
        assert [tasks for tasks in active.values() if tasks] == []
        assert worker.end() == 0


def test_limits_hold_against_tasks_that_resist(worker: Worker) -> None:
    """A bare except does not defeat the hard limit, nor a slow finally; the soft one lets tidy up."""
    with worker.running():
        for task in ("swallow", "linger"):
            with pytest.raises(Exception, match="TimeLimitExceeded"):
                worker.send(task).get(timeout=10)
        assert worker.send("tidy").get(timeout=10) == "tidied"
        assert worker.send("nap", 0.01).get(timeout=10) == "done"


def test_the_pool_keeps_limits_without_install(worker: Worker) -> None:
    """`-P custom` in an app that does not install(): time limits hold, and it starts anew when it is due."""
    pool = {"CELERY_CUSTOM_WORKER_POOL": "greenkit.celery:TaskPool", "TEST_STOCK": "1"}
    with worker.running("-P", "custom", "-c", "1", "--max-tasks-per-child", "3", **pool):
        with pytest.raises(Exception, match="TimeLimitExceeded"):
            worker.send("swallow").get(timeout=10)
        assert worker.send("tidy").get(timeout=10) == "tidied"
        for _ in range(2):
            assert worker.send("nap", 0.01).get(timeout=20) == "done"
        worker.wait(lambda: worker.text().count(" ready.") == 2)


def test_terminate_ends_in_revoked(worker: Worker) -> None:
    """revoke(terminate=True) of a running task leaves it REVOKED and frees its slot."""
    with worker.running("-P", "gevent", "-c", "1"):
        result = worker.send("nap", 60)
        worker.wait(lambda: "received" in worker.text())
        worker.control.revoke(result.id, terminate=True)
        worker.wait(lambda: result.state == "REVOKED")
        assert worker.send("nap", 0.01).get(timeout=10) == "done"
        worker.wait(lambda: unacked(worker) == 0)


def test_a_quota_retry_is_not_a_failed_attempt(worker: Worker) -> None:
    """WouldWait comes back later by itself, even with max_retries=0, and `retries` stays 0."""
    with worker.running():
        assert worker.send("limited").get(timeout=10) == 0
        assert int(worker.notes.get("asked")) == 4


def test_term_drains_what_runs_and_starts_nothing(worker: Worker) -> None:
    """SIGTERM with 4 running and 6 queued: the 4 end, the 6 are back in the queue, status 0."""
    with worker.running("-P", "gevent", "-c", "4", "--prefetch-multiplier", "4"):
        for number in range(10):
            worker.send("count", number, 1.0)
        worker.wait(lambda: worker.notes.hlen("runs") == 4 and unacked(worker) == 10)
        assert worker.end() == 0
    assert int(worker.notes.get("ended")) == 4
    assert (queued(worker), unacked(worker)) == (6, 0)


def test_quit_gives_late_acked_tasks_back(worker: Worker) -> None:
    """SIGQUIT with 4 late-ack tasks running: all 4 are back in the queue."""
    with worker.running():
        for number in range(4):
            worker.send("count", number, 60.0)
        worker.wait(lambda: worker.notes.hlen("runs") == 4)
        worker.end(signal.SIGQUIT)
        assert "Traceback" not in worker.text()
    assert (queued(worker), unacked(worker)) == (4, 0)


def test_drain_timeout_gives_unfinished_tasks_back(worker: Worker) -> None:
    """A warm shutdown past its drain timeout returns what still runs to the queue."""
    with worker.running(TEST_OPTIONS="{'drain_timeout': 0.3}"):
        worker.send("count", 1, 60.0)
        worker.wait(lambda: worker.notes.hlen("runs") == 1)
        assert worker.end() == 0
    assert (queued(worker), unacked(worker)) == (1, 0)


def test_inspect_greenkit_tells_of_every_worker(worker: Worker) -> None:
    """`inspect greenkit` answers with pool and watchdog while the pool is full."""
    with worker.running("-P", "gevent", "-c", "1"):
        worker.send("nap", 60)
        worker.wait(lambda: "received" in worker.text())
        (facts,) = worker.control.inspect(timeout=3)._request("greenkit").values()
        assert facts["pool"]["celery"]["in_use"] == 1
        assert facts["watchdog"]["hub"]["threshold"] == 0.1


def test_the_pool_grows_and_refuses_to_vanish(worker: Worker) -> None:
    """pool_grow starts what waits; pool_shrink to none is refused with a reason."""
    with worker.running("-P", "gevent", "-c", "1", "--prefetch-multiplier", "4"):
        for _ in range(2):
            worker.send("nap", 60)
        control = worker.control
        worker.wait(lambda: unacked(worker) == 2)
        (answer,) = control.pool_shrink(1, reply=True, timeout=3)
        assert "cannot shrink" in str(answer)
        control.pool_grow(1, reply=True, timeout=3)

        def running() -> int:
            (active,) = control.inspect(timeout=3).active().values()
            return len(active)

        worker.wait(lambda: running() == 2)


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_other_pools_have_the_hooks_that_make_sense(worker: Worker, pool: str) -> None:
    """Quota retries, 429s, limits, resources and `inspect greenkit` work; one sentence says so, once."""
    module = {"prefork": "prefork", "threads": "thread", "solo": "solo"}[pool]
    with worker.running("-P", pool, "-c", "2"):
        assert worker.send("limited").get(timeout=10) == 0
        assert int(worker.notes.getdel("asked")) == 4
        result = worker.send("wrong_status")
        result.get(timeout=10)
        assert (result.state, int(worker.notes.get("asked"))) == ("SUCCESS", 3)
        for text in ("a", "bb"):
            worker.send("paid", text)
        worker.wait(lambda: worker.notes.llen("paid") == 2)
        assert worker.notes.lrange("life", 0, -1) == [b"opened"] * (2 if pool == "prefork" else 1)
        (told,) = worker.control.inspect(timeout=5)._request("greenkit").values()
        assert (told["tasks"], "pool" in told) == ([], False)
        assert worker.end() == 0
    lines = [line for line in worker.text().splitlines() if "greenkit: " in line]
    assert len(lines) == 1, lines
    assert (
        f"pool celery.concurrency.{module}:TaskPool keeps Celery's own delivery, limits and shutdown"
        in lines[0]
    )
    assert "active here: retry on WouldWait and RateLimited, limits of tasks" in lines[0]
    assert set(worker.notes.lrange("life", 0, -1)) == {b"opened", b"closed"}


def test_filesystem_broker(greenkit_valkey: ValkeyServer, tmp_path: Path) -> None:
    """A transport without an asynchronous side runs too, on Celery's blocking loop."""
    folders = {name: str(tmp_path) for name in ("data_folder_in", "data_folder_out", "control_folder")}
    url = greenkit_valkey.broker_url
    with Worker("filesystem://", url, greenkit_valkey.url, tmp_path) as worker:
        worker.app.conf.broker_transport_options = folders
        with worker.running():
            assert worker.send("nap", 0.01).get(timeout=20) == "done"
