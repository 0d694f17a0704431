"""What a worker does around its tasks: resources, children, quotas, recycling, limits on queries."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2
import pytest

from tests.integration.celery_worker import Worker

if TYPE_CHECKING:
    from greenkit.testing import PostgresServer

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("pool", ["gevent", "threads", "prefork"])
def test_resources_live_as_long_as_the_worker(worker: Worker, pool: str) -> None:
    """Opened before the first message, closed after the last task; in prefork by each child."""
    worker.send("count", 1, 0.5)
    with worker.running("-P", pool, "-c", "1"):
        worker.wait(lambda: worker.notes.hlen("runs") == 1)
        assert worker.notes.lrange("life", 0, -1) == [b"opened"]
        worker.end()
    assert worker.notes.lrange("life", 0, -1) == [b"opened", b"closed"]
    assert int(worker.notes.get("ended")) == 1


@pytest.mark.parametrize("pool", ["gevent", "prefork"])
def test_a_worker_that_cannot_warm_up_does_not_start(worker: Worker, pool: str) -> None:
    """A module of the warm-up list that does not exist ends the worker, by name, before any message."""
    worker.send("count", 1, 0.0)
    with worker.running("-P", pool, "-c", "2", TEST_OPTIONS="{'warm_up': ['no_such_module']}"):
        assert worker.process.wait(20) == 1
        assert "no_such_module" in worker.text()
    assert worker.notes.hlen("runs") == 0


def test_tasks_of_warm_up_modules_have_limits_too(worker: Worker) -> None:
    """They are there before the first message, and the hard limit and terminate end them as any other."""
    with worker.running(TEST_OPTIONS="{'warm_up': ['celery_late']}"):
        result = worker.app.send_task("celery_late.late", (30.0,), time_limit=0.5)
        with pytest.raises(Exception, match="TimeLimitExceeded"):
            result.get(timeout=10)
        result = worker.app.send_task("celery_late.late", (30.0,))
        worker.wait(lambda: result.id in worker.text())
        worker.control.revoke(result.id, terminate=True)
        worker.wait(lambda: result.state == "REVOKED")
        worker.wait(lambda: worker.notes.hlen("unacked") == 0)
        assert worker.end() == 0


def test_children_are_reported_and_know_their_task(worker: Worker) -> None:
    """A greenlet left behind is named in the log once; one within a task knows the task's id."""
    with worker.running():
        named = worker.send("child", "named")
        assert named.get(timeout=10) == named.id
        assert worker.send("child", "left").get(timeout=10) == "left"
        worker.wait(
            lambda: "left a greenlet of time.sleep" in worker.text() or "left a greenlet" in worker.text()
        )
        assert worker.text().count("left a greenlet") == 1


@pytest.mark.parametrize(("policy", "child"), [("join", b"ended"), ("kill", b"ended")])
def test_children_are_joined_or_killed_before_the_result(worker: Worker, policy: str, child: bytes) -> None:
    """With "join" or "kill" nothing of a task runs once its result is there."""
    with worker.running(TEST_OPTIONS=repr({"children": policy})):
        began = time.monotonic()
        assert worker.send("child", "left").get(timeout=10) == "left"
        took = time.monotonic() - began
        worker.wait(lambda: worker.notes.get("child") == child)
        assert (took >= 0.5) == (policy == "join")
        assert "left a greenlet" not in worker.text()


def test_a_429_of_requests_comes_back_later(worker: Worker) -> None:
    """HTTPError with status 429 frees the slot for what Retry-After says, and is no failure."""
    with worker.running():
        result = worker.send("wrong_status")
        result.get(timeout=10)
        assert (result.state, int(worker.notes.get("asked"))) == ("SUCCESS", 3)


def test_limited_tasks_block_nobody_and_keep_their_order(worker: Worker) -> None:
    """40 tasks of a 4/s quota on one slot and a window of 2: the task behind them runs at once."""
    for number in range(40):
        worker.send("paid", "x" * number)
    with worker.running("-P", "gevent", "-c", "1", "--prefetch-multiplier", "2"):
        worker.wait(lambda: worker.notes.llen("paid") >= 1)
        assert worker.send("nap", 0.01).get(timeout=5) == "done"
        assert worker.notes.llen("paid") < 20, "the quota let too much through, or nap waited for it"
        worker.wait(lambda: worker.notes.llen("paid") >= 8)
        paid = [line.split() for line in worker.notes.lrange("paid", 0, 7)]
        assert float(paid[7][0]) - float(paid[0][0]) >= 7 / 4 - 0.1
        assert [float(tokens) for _, tokens in paid] == list(range(8))
        (stats,) = worker.control.inspect(timeout=3).stats().values()
        assert stats["pool"]["limited-tasks"] > 0
        assert worker.end() == 0
    assert worker.notes.llen("celery") + worker.notes.llen("paid") == 40


def test_limits_of_tasks_hold_on_other_pools(worker: Worker) -> None:
    """Without our pool the limiter is asked in the task, which comes back later."""
    with worker.running("-P", "threads", "-c", "4"):
        for _ in range(3):
            worker.send("paid", "x")
        worker.wait(lambda: worker.notes.llen("paid") == 3)
        times = [float(line.split()[0]) for line in worker.notes.lrange("paid", 0, -1)]
        assert max(times) - min(times) >= 2 / 4 - 0.1


@pytest.mark.parametrize("how", ["exec", "exit"])
def test_a_worker_recycles_after_so_many_tasks(worker: Worker, how: str) -> None:
    """max_tasks_per_child: it drains, loses nothing, and becomes a new process or ends with status 0."""
    for number in range(30):
        worker.send("count", number, 0.0)
    arguments = "-P", "gevent", "-c", "2", "--max-tasks-per-child", "5"
    with worker.running(*arguments, TEST_OPTIONS=repr({"recycle": how})):
        if how == "exit":
            assert worker.process.wait(20) == 0
            assert 10 <= int(worker.notes.get("ended")) < 30
        else:
            worker.wait(lambda: int(worker.notes.get("ended") or 0) == 30)
            assert worker.process.poll() is None
            assert worker.text().count(" ready.") >= 3
        assert Path(worker.environment["TEST_FOLDER"], "exited").exists(), "atexit functions were left out"
    assert {int(count) for count in worker.notes.hvals("runs")} == {1}


def test_workers_with_too_much_memory_recycle_one_after_the_other(worker: Worker, tmp_path: Path) -> None:
    """One blow fills both; each bears it for as many looks as it drew, drains, and loses nothing."""
    other = Worker(worker.url, worker.url, worker.notes_url, tmp_path / "other")
    limit = "-P", "gevent", "-c", "2", "--prefetch-multiplier", "2", "--max-memory-per-child", "200000"
    numbers = itertools.count()

    def ended(how_many: int) -> bool:
        return int(worker.notes.get("ended") or 0) >= how_many

    def one_each(task: str, *arguments: float) -> None:
        for queue in ("one", "two"):
            worker.send(task, next(numbers), *arguments, queue=queue)

    with (
        other,
        worker.running(*limit, "-Q", "one", "-n", "one@%h", TEST_LOOKS="3"),
        other.running(*limit, "-Q", "two", "-n", "two@%h", TEST_LOOKS="5"),
    ):
        one_each("hoard", 200)
        worker.wait(lambda: ended(2))
        one_each("count", 0.0)
        worker.wait(lambda: ended(4))
        assert "MiB are resident" not in worker.text() + other.text()
        for _ in range(10):  # the first to end is the third look; one more runs, the others wait
            worker.send("count", next(numbers), 0.3, queue="one")
        worker.wait(lambda: "MiB are resident" in worker.text())
        one_each("count", 0.0)
        worker.wait(lambda: worker.text().count(" ready.") == 2 and ended(16))
        assert "MiB are resident" not in other.text(), "both at once"
        assert worker.text().count("MiB are resident") == 1, "the new process has no more than it needs"
        for _ in range(4):
            worker.send("count", next(numbers), 0.3, queue="two")
        worker.wait(lambda: other.text().count(" ready.") == 2 and ended(20))
    assert [int(count) for count in worker.notes.hvals("runs")] == [1] * 20


@pytest.mark.parametrize("limits", [{"soft_time_limit": 2}, {"time_limit": 2}], ids=["soft", "hard"])
def test_a_limit_ends_the_query_of_the_task(
    worker: Worker, greenkit_postgres: PostgresServer, limits: dict[str, float]
) -> None:
    """The server does not go on with what nobody waits for."""
    connection = psycopg2.connect(greenkit_postgres.dsn)
    try:
        with (
            worker.running(TEST_POSTGRES=greenkit_postgres.dsn, TEST_DRIVERS="1"),
            connection.cursor() as cursor,
        ):

            def active() -> int:
                connection.rollback()
                cursor.execute(
                    "SELECT count(*) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND state = 'active'"
                    " AND query LIKE '%pg_sleep(%' AND pid <> pg_backend_pid()"  # psycopg 3 sends $1
                )
                return cursor.fetchone()[0]

            for driver in ("psycopg2", "psycopg"):
                result = worker.send("query", 31.5, driver, **limits)
                worker.wait(active)
                with pytest.raises(Exception, match="TimeLimitExceeded"):
                    result.get(timeout=10)
                worker.wait(lambda: not active())
    finally:
        connection.close()


@pytest.mark.parametrize("limits", [{"time_limit": 4}, {"soft_time_limit": 4}], ids=["hard", "soft"])
def test_a_limit_closes_the_http_connection_of_the_task(worker: Worker, limits: dict[str, float]) -> None:
    """Before the answer's head and in its middle: the provider sees that nobody waits for the rest."""
    asked, left = [], []

    def serve(connection: socket.socket) -> None:
        with connection:
            word = connection.recv(65536).split()[1]
            asked.append(word)
            if word.endswith(b"body"):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")
            connection.settimeout(60)
            if not connection.recv(1):
                left.append(word)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener, worker.running():
        threading.Thread(target=accept, daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        words = [f"/{how}/{where}" for how in ("requests", "session") for where in ("head", "body")]
        sent = [worker.send("fetch", url + word, word.split("/")[1], **limits) for word in words]
        worker.wait(lambda: len(asked) == 4)
        assert left == []
        for one in sent:
            with pytest.raises(Exception, match="TimeLimitExceeded"):
                one.get(timeout=20)
        worker.wait(lambda: len(left) == 4)
        listener.shutdown(socket.SHUT_RDWR)
