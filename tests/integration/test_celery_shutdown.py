"""Every way a worker is told to stop, with real signals: what runs, what goes back, the exit status."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.integration.celery_worker import Worker

if TYPE_CHECKING:
    from pathlib import Path

    from greenkit.testing import RabbitServer, ValkeyServer

pytestmark = pytest.mark.filterwarnings("ignore")
TERM, QUIT, INT = signal.SIGTERM, signal.SIGQUIT, signal.SIGINT


def left(worker: Worker) -> tuple[int, int]:
    return int(worker.notes.llen("celery")), int(worker.notes.hlen("unacked"))


@pytest.mark.parametrize(
    ("conf", "signals", "seconds", "back", "status"),
    [
        ({}, (TERM,), 1.0, 0, 0),
        ({}, (QUIT,), 60.0, 4, 0),
        ({}, (TERM, QUIT), 60.0, 4, 0),
        ({"worker_soft_shutdown_timeout": 4.0}, (QUIT,), 1.5, 0, 0),
        ({"worker_soft_shutdown_timeout": 1.0}, (QUIT,), 60.0, 4, 0),
        ({"worker_soft_shutdown_timeout": 60.0}, (QUIT, QUIT, QUIT), 60.0, 4, None),
        ({}, (INT,), 1.0, 0, 1),
        ({}, (INT, INT), 60.0, 4, 1),
    ],
    ids=[
        "TERM",
        "QUIT",
        "TERM, QUIT",
        "QUIT, soft, short tasks",
        "QUIT, soft, long tasks",
        "QUIT again and again",
        "INT",
        "INT twice",
    ],
)
def test_each_way_to_stop(
    worker: Worker, conf: dict[str, object], signals: tuple[signal.Signals, ...], seconds: float, back: int,
    status: int | None,
) -> None:  # fmt: skip
    """Four late-ack tasks run: they end within what they were given, or are back in the queue."""
    with worker.running(TEST_CONF=repr(conf)):
        for number in range(4):
            worker.send("count", number, seconds)
        worker.wait(lambda: worker.notes.hlen("runs") == 4)
        ended = worker.end(*signals, pause=0.7 if len(signals) > 1 else 0.0)
        assert status is None or ended == status
        if status is not None:
            assert "Traceback" not in worker.text()
    assert left(worker) == (back, 0)
    assert int(worker.notes.get("ended") or 0) == 4 - back


def test_term_can_be_remapped_to_a_soft_shutdown(worker: Worker) -> None:
    """REMAP_SIGTERM=SIGQUIT, as a Kubernetes pod is told to stop: short tasks end, long ones go back."""
    conf = repr({"worker_soft_shutdown_timeout": 1.5})
    with worker.running(REMAP_SIGTERM="SIGQUIT", TEST_CONF=conf):
        for number, seconds in enumerate((0.5, 0.5, 60.0, 60.0)):
            worker.send("count", number, seconds)
        worker.wait(lambda: worker.notes.hlen("runs") == 4)
        assert worker.end(TERM) == 0
    assert left(worker) == (2, 0)


def test_countdown_tasks_go_back_at_shutdown(worker: Worker) -> None:
    """Tasks held for their time are the broker's again, not lost with the worker."""
    with worker.running():
        for number in range(5):
            worker.send("count", number, 0.0, countdown=600)
        worker.wait(lambda: left(worker) == (0, 5))
        assert worker.end() == 0
    assert left(worker) == (5, 0)
    assert worker.notes.hlen("runs") == 0


def test_a_receiver_of_the_shutdown_signal_may_wait(worker: Worker) -> None:
    """worker_shutting_down runs in a greenlet: its I/O works, in plain Celery on gevent it crashes."""
    with worker.running(TEST_FAREWELL="1"):
        assert worker.end() == 0
        assert "BlockingSwitchOutError" not in worker.text()
    assert worker.notes.get("farewell") == b"said"


def test_rabbitmq_gets_back_what_was_not_done(
    greenkit_rabbitmq: RabbitServer, greenkit_valkey: ValkeyServer, tmp_path: Path
) -> None:
    """SIGQUIT over AMQP: consumer and handler share one connection, and no message is lost."""
    urls = greenkit_rabbitmq.broker_url, greenkit_valkey.broker_url, greenkit_valkey.url
    with Worker(*urls, tmp_path) as worker:
        worker.notes.flushdb()
        with worker.running("-P", "gevent", "-c", "4", "--prefetch-multiplier", "2"):
            for number in range(8):
                worker.send("count", number, 30.0)
            worker.wait(lambda: worker.notes.hlen("runs") == 4)
            worker.end(QUIT)
            assert "Traceback" not in worker.text()
        worker.notes.set("short", 1)
        with worker.running():
            worker.wait(lambda: int(worker.notes.get("ended") or 0) == 8)
            assert worker.end() == 0
        assert sorted(int(count) for count in worker.notes.hvals("runs")) == [1, 1, 1, 1, 2, 2, 2, 2]


def test_rabbitmq_gets_back_what_was_only_fetched(
    greenkit_rabbitmq: RabbitServer, greenkit_valkey: ValkeyServer, tmp_path: Path
) -> None:
    """TERM with a full pool: slots that free afterwards take nothing of the backlog, all of it goes back."""
    urls = greenkit_rabbitmq.broker_url, greenkit_valkey.broker_url, greenkit_valkey.url
    arguments = "-P", "gevent", "-c", "4", "--prefetch-multiplier", "3", "-Q", "fetched"
    with Worker(*urls, tmp_path) as worker:
        worker.notes.flushdb()
        with worker.running(*arguments):
            for number in range(10):
                worker.send("hold", number, "go", queue="fetched")
            worker.wait(lambda: worker.notes.hlen("runs") == 4 and worker.text().count("hold[") >= 10)
            worker.process.send_signal(TERM)
            worker.wait(lambda: "Warm shutdown" in worker.text())
            worker.notes.set("go", 1)
            assert worker.process.wait(30) == 0
            assert "Traceback" not in worker.text()
        assert int(worker.notes.get("ended")) == 4
        assert sorted(worker.notes.hvals("runs")) == [b"1"] * 4
        with worker.app.connection() as connection:
            assert connection.default_channel.queue_declare("fetched", passive=True).message_count == 6


def test_a_broker_that_dies_while_the_pool_drains_kills_no_task(
    greenkit_valkey: ValkeyServer, tmp_path: Path
) -> None:
    """Stopping without a broker waits for what runs, and ends."""
    from greenkit.testing import ValkeyServer as Server

    with Server(own=True) as server:
        urls = server.broker_url, server.broker_url, greenkit_valkey.url
        with Worker(*urls, tmp_path) as worker, worker.running():
            worker.notes.flushdb()
            worker.send("count", 1, 3.0)
            worker.wait(lambda: worker.notes.hlen("runs") == 1)
            worker.process.send_signal(TERM)
            worker.wait(lambda: "Warm shutdown" in worker.text())
            server.kill()
            worker.process.wait(30)
            assert int(worker.notes.get("ended") or 0) == 1
