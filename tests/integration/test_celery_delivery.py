"""Broker connections that break, freeze, or are shared with plain Celery workers."""

from __future__ import annotations

import base64
import inspect
import json
import signal
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from celery.worker.consumer import Consumer
from kombu.transport.redis import Channel

from greenkit.testing import FaultProxy, RabbitServer, ValkeyServer
from tests.integration.celery_worker import Worker

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore")
# Before 5.7 Celery logs a lost connection with its traceback (celery/worker/consumer/consumer.py).
CELERY_TRACES = "warn(CONNECTION_RETRY, exc_info=True)" in inspect.getsource(
    Consumer.on_connection_error_after_connected
)
# What a killed worker had is given out again after a second, not an hour.
SOON = {
    "TEST_TRANSPORT": "{'visibility_timeout': 1, 'unacked_restore_interval': 1,"
    " 'unacked_restore_throttle': 1}"
}


def runs(worker: Worker) -> list[int]:
    return sorted(int(count) for count in worker.notes.hvals("runs"))


def settled(worker: Worker) -> bool:
    return worker.notes.hlen("unacked") == 0 and worker.notes.llen("celery") == 0


def test_a_broken_connection_repeats_nothing_that_runs(worker: Worker) -> None:
    """All connections are cut while the window is full, and again while BRPOP waits: each task runs once."""
    with worker.running("-P", "gevent", "-c", "8", "--prefetch-multiplier", "2"):
        for number in range(20):
            worker.send("count", number, 1.0)
        worker.wait(lambda: worker.notes.hlen("runs") == 8 and worker.notes.hlen("unacked") == 16)
        assert worker.notes.client_kill_filter(_type="normal", skipme=True) > 0
        worker.wait(lambda: worker.notes.hlen("runs") == 20 and worker.notes.llen("celery") == 0)
        assert worker.notes.client_kill_filter(_type="normal", skipme=True) > 0
        worker.wait(lambda: "Connection to broker lost" in worker.text())
        worker.wait(lambda: int(worker.notes.get("ended") or 0) >= 20)
        worker.wait(lambda: settled(worker))
        assert runs(worker) == [1] * 20
        assert worker.end() == 0


def test_what_was_only_fetched_goes_back_when_the_broker_returns(tmp_path: Path) -> None:
    """The broker is away while the connection is given up; nothing waits for a visibility timeout."""
    with ValkeyServer(own=True) as server:
        urls = server.broker_url, server.broker_url, server.url
        with Worker(*urls, tmp_path) as worker, worker.running(
            "-P", "gevent", "-c", "2", "--prefetch-multiplier", "4"
        ):  # fmt: skip
            for number in range(8):
                worker.send("stamp", number, 0.3)
            worker.wait(lambda: worker.notes.hlen("unacked") == 8)
            server.restart()
            worker.wait(lambda: len(list(tmp_path.glob("stamp-*"))) == 8)
            worker.wait(lambda: settled(worker))
            assert worker.end() == 0


def test_a_frozen_broker_is_noticed(tmp_path: Path) -> None:
    """An ack that is never answered ends the connection, and the thawed broker is consumed from."""
    with ValkeyServer(own=True) as server:
        urls = server.broker_url, server.broker_url, server.url
        options = {"TEST_TRANSPORT": "{'socket_timeout': 1}"}
        arguments = "-P", "gevent", "-c", "4", "--without-heartbeat"
        with Worker(*urls, tmp_path) as worker, worker.running(*arguments, **options):
            worker.send("stamp", 1, 2.0)
            worker.wait(lambda: worker.notes.hlen("unacked") == 1)
            server.freeze()
            worker.wait(lambda: "Connection to broker lost" in worker.text())
            server.thaw()
            assert worker.send("nap", 0.01).get(timeout=20) == "done"
            worker.wait(lambda: settled(worker))
            assert worker.end() == 0


@pytest.mark.parametrize("soon", [True, False], ids=["a heartbeat hangs", "it tries to reconnect"])
def test_a_worker_whose_broker_is_frozen_ends(
    greenkit_valkey: ValkeyServer, tmp_path: Path, *, soon: bool
) -> None:
    """TERM is acted on with a heartbeat unanswered; the commands of the shutdown do not wait one by one."""
    with ValkeyServer(own=True) as server:
        urls = server.broker_url, greenkit_valkey.broker_url, greenkit_valkey.url
        arguments = "-P", "gevent", "-c", "4", "--heartbeat-interval", "1"
        with Worker(*urls, tmp_path) as worker, worker.running(*arguments):
            server.freeze()
            try:
                if soon:
                    time.sleep(2.5)  # the next heartbeat is on its way by now
                else:
                    worker.wait(lambda: "Connection to broker lost" in worker.text())
                assert worker.process is not None
                worker.process.send_signal(signal.SIGTERM)
                # 10 s for the heartbeat and 10 s for the last word, on a machine that may be slow.
                assert worker.process.wait(60) == 0
            finally:
                server.thaw()
            assert CELERY_TRACES or "Traceback" not in worker.text()


def test_heartbeats_to_a_frozen_broker_end_the_connection(
    greenkit_valkey: ValkeyServer, tmp_path: Path
) -> None:
    """The worker says so at once, and goes on by itself after the thaw: no task is lost or run twice."""
    with ValkeyServer(own=True) as server:
        urls = server.broker_url, greenkit_valkey.broker_url, greenkit_valkey.url
        arguments = "-P", "gevent", "-c", "4", "-E", "--heartbeat-interval", "1"
        with Worker(*urls, tmp_path) as worker, worker.running(*arguments):
            worker.notes.flushdb()
            for number in range(12):
                worker.send("hold", number, "go")
            worker.wait(lambda: worker.notes.hlen("runs") == 4)
            server.freeze()
            try:
                worker.wait(lambda: "Connection to broker lost" in worker.text())
                worker.notes.set("go", 1)  # four end, and are acknowledged later
                worker.wait(lambda: int(worker.notes.get("ended") or 0) >= 4)
            finally:
                server.thaw()
            worker.wait(lambda: int(worker.notes.get("ended") or 0) >= 12, 60)
            assert worker.control.ping(timeout=5)
            assert worker.send("nap", 0.01).get(timeout=20) == "done"
            assert worker.end() == 0
            assert runs(worker) == [1] * 12


def test_an_amqp_connection_cut_while_tasks_run_repeats_none(
    greenkit_valkey: ValkeyServer, tmp_path: Path
) -> None:
    """RabbitMQ gives out again what runs; the running tasks take the second messages over."""
    with RabbitServer(own=True) as rabbit:
        urls = rabbit.broker_url, greenkit_valkey.broker_url, greenkit_valkey.url
        with Worker(*urls, tmp_path) as worker, worker.running("-P", "gevent", "-c", "8"):
            worker.notes.flushdb()
            for number in range(12):
                worker.send("count", number, 2.5, delivery_mode="persistent")
            worker.wait(lambda: worker.notes.hlen("runs") == 8)
            rabbit.restart()
            worker.wait(lambda: "Connection to broker lost" in worker.text())
            worker.wait(lambda: int(worker.notes.get("ended") or 0) >= 12, 60)
            time.sleep(0.5)  # a repetition would begin now
            assert runs(worker) == [1] * 12
            assert "it is not run twice" in worker.text()
            assert worker.end() == 0


def test_a_frozen_rabbitmq_is_noticed(greenkit_valkey: ValkeyServer, tmp_path: Path) -> None:
    """Missed heartbeats end the connection; after the thaw all is done once, and remote control answers."""
    with RabbitServer(own=True) as rabbit:
        urls = rabbit.broker_url, greenkit_valkey.broker_url, greenkit_valkey.url
        conf = {"TEST_CONF": "{'broker_heartbeat': 2}"}
        arguments = "-P", "gevent", "-c", "4", "--prefetch-multiplier", "2"
        with Worker(*urls, tmp_path) as worker, worker.running(*arguments, **conf):
            worker.notes.flushdb()
            for number in range(12):
                worker.send("hold", number, "go", delivery_mode="persistent")
            worker.wait(lambda: worker.notes.hlen("runs") == 4)
            rabbit.freeze()
            try:
                worker.wait(lambda: "Connection to broker lost" in worker.text())
            finally:
                rabbit.thaw()
            worker.wait(lambda: worker.text().count("Connected to amqp") >= 2)
            worker.wait(lambda: worker.app.control.inspect(timeout=1).ping())
            worker.notes.set("go", 1)
            worker.wait(lambda: int(worker.notes.get("ended") or 0) >= 12)
            assert worker.end() == 0
            assert runs(worker) == [1] * 12


def test_a_task_that_outlasts_the_heartbeats_is_no_poison(
    greenkit_rabbitmq: RabbitServer, greenkit_valkey: ValkeyServer, tmp_path: Path
) -> None:
    """It holds the thread until RabbitMQ hangs up, acks into the void, and is not run when it comes again."""
    urls = greenkit_rabbitmq.broker_url, greenkit_valkey.broker_url, greenkit_valkey.url
    conf = {"task_default_queue": "hogs", "broker_heartbeat": 1}
    with Worker(*urls, tmp_path) as worker, worker.running(TEST_CONF=repr(conf)):
        worker.notes.flushdb()
        # Without a result nothing switches between the body and its ack.
        worker.send("hog", 5.0, queue="hogs", ignore_result=True)
        worker.wait(lambda: "not run twice" in worker.text())
        assert worker.send("nap", 0.01, queue="hogs").get(timeout=20) == "done"
        assert worker.notes.llen("hogs") == 1
        assert "the hub stood still" in worker.text()
        assert worker.end() == 0


def test_a_plain_worker_may_share_the_queue(worker: Worker, tmp_path: Path) -> None:
    """What ours books in batches is booked as kombu does: plain workers restore it when ours is killed."""
    for number in range(6):
        worker.send("count", number, 0.0, queue="celery", priority=number % 2)
    for number in range(6, 12):
        worker.send("count", number, 60.0)
    with worker.running("-P", "gevent", "-c", "12", **SOON):
        worker.wait(lambda: worker.notes.hlen("runs") == 12)
        worker.wait(lambda: worker.notes.hlen("unacked") == 6)
        assert int(worker.notes.get("ended") or 0) == 6
    assert worker.notes.hlen("unacked") == 6  # running() ends with SIGKILL
    worker.notes.set("short", 1)
    with worker.running("-P", "threads", "-c", "4", TEST_STOCK="1", **SOON):
        worker.wait(lambda: int(worker.notes.get("ended") or 0) == 12)
        worker.wait(lambda: settled(worker))
    assert runs(worker) == [1] * 6 + [2] * 6


def unacked(worker: Worker) -> set[str]:
    """Return the numbers of the `count` tasks whose ack the broker has not got."""
    messages = [json.loads(value)[0] for value in worker.notes.hvals("unacked")]
    return {str(json.loads(base64.b64decode(one["body"]))[0][0]) for one in messages}


@pytest.mark.skipif(
    "unacked_restore_interval" not in Channel.from_transport_options,
    reason="before 5.7 kombu looks for the messages of dead workers every 100 s",
)
def test_kill_storm_loses_nothing(worker: Worker) -> None:
    """Killed with -9 again and again, every task gets done; repeated are only those whose ack was lost."""
    # Longer than a busy machine keeps a message waiting: what a live worker has is not to be given out again.
    late = {"TEST_TRANSPORT": SOON["TEST_TRANSPORT"].replace("_timeout': 1", "_timeout': 5")}
    for number in range(300):
        worker.send("count", number, 0.05)
    begun: set[str] = set()
    for _ in range(3):
        with worker.running("-P", "gevent", "-c", "10", "--prefetch-multiplier", "2", **late):
            reached = worker.notes.hlen("runs") + 30
            worker.wait(lambda reached=reached: worker.notes.hlen("runs") >= reached)
            assert worker.process is not None
            assert worker.process.poll() is None  # running() ends it with SIGKILL
        lost = unacked(worker) & {key.decode() for key in worker.notes.hkeys("runs")}
        assert 0 < len(lost - begun) <= 20, "killed with nothing in flight, or with more than the window"
        begun |= lost
    with worker.running("-P", "gevent", "-c", "50", **late):
        worker.wait(lambda: worker.notes.hlen("runs") == 300 and settled(worker))
    again = {key.decode() for key, count in worker.notes.hgetall("runs").items() if int(count) > 1}
    assert again <= begun


def test_what_is_no_message_is_thrown_away_alone(worker: Worker) -> None:
    """Garbage in the list, met in a batch and by itself: named in the log, and the tasks around it run."""
    booked = {"delivery_tag": "t", "delivery_info": {"exchange": "", "routing_key": "celery"}}
    garbage = [
        b"no JSON", b"null", b'{"no": "properties"}', b"\xff",
        json.dumps({"properties": {**booked, "body_encoding": "base64"}, "body": "a"}).encode(),
    ]  # fmt: skip
    for number, item in enumerate(garbage):
        worker.send("count", number, 0.0)
        worker.notes.lpush("celery", item)
    worker.send("count", len(garbage), 0.0)
    with worker.running("-P", "gevent", "-c", "20"):
        worker.wait(lambda: worker.notes.hlen("runs") == len(garbage) + 1)
        for at, item in enumerate(garbage, start=len(garbage) + 1):
            worker.notes.lpush("celery", item)
            worker.wait(lambda at=at: worker.text().count("is no message") == at)
        assert worker.send("nap", 0.0).get(timeout=10) == "done"
        worker.wait(lambda: settled(worker))
        assert worker.end() == 0


def test_an_answer_that_is_cut_loses_and_keeps_nothing(greenkit_valkey: ValkeyServer, tmp_path: Path) -> None:
    """Of an idle worker and of a busy one: what the script booked and never delivered goes back at once."""
    url = greenkit_valkey.broker_url
    with (
        FaultProxy(urlsplit(url).path) as proxy,
        Worker(f"redis://127.0.0.1:{proxy.port}/0", url, greenkit_valkey.url, tmp_path) as worker,
    ):
        worker.notes.flushdb()
        publisher = Worker(url, url, greenkit_valkey.url, tmp_path)
        with publisher, worker.running("-P", "gevent", "-c", "8", "--without-heartbeat"):
            assert worker.process is not None
            assert publisher.send("nap", 0.0).get(timeout=10) == "done"  # it waits from here on
            number, cut = 0, 0
            for size in (1, 1, 20):  # of tasks that meet a worker that waits
                worker.wait(lambda: settled(worker))
                time.sleep(0.3)  # its last ack is answered, and it waits
                before = proxy.statistics().opened
                worker.process.send_signal(signal.SIGSTOP)
                for _ in range(size):
                    publisher.send("count", number, 0.0, queue="celery", priority=3 * (number % 3))
                    number += 1
                time.sleep(0.1)  # the notice is with it
                proxy.black_hole(direction="down")  # the server acts, its answers are lost
                worker.process.send_signal(signal.SIGCONT)
                worker.wait(lambda: worker.notes.hlen("unacked") > 0)
                cut += worker.notes.hlen("unacked")
                proxy.heal()
                worker.wait(lambda before=before: proxy.statistics().opened > before)
                worker.wait(lambda: worker.notes.hlen("runs") == number and settled(worker))  # noqa: B023
            assert cut >= 3, "no answer was cut"
            assert runs(worker) == [1] * number
            assert worker.end() == 0


def test_a_script_the_server_forgot_is_loaded_again(worker: Worker) -> None:
    """Nothing is fetched one by one, which has a message popped before it is booked."""
    with worker.running("-P", "gevent", "-c", "4"):
        assert worker.send("nap", 0.0).get(timeout=10) == "done"
        worker.notes.script_flush()
        before = worker.notes.info("commandstats").get("cmdstat_brpop", {"calls": 0})["calls"]
        for _ in range(3):
            assert worker.send("nap", 0.0).get(timeout=10) == "done"
        assert worker.notes.info("commandstats").get("cmdstat_brpop", {"calls": 0})["calls"] == before
        assert worker.end() == 0


REFUSALS = {
    "replica": (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
    "no replicas": (
        ("CONFIG", "SET", "min-replicas-to-write", "1"), ("CONFIG", "SET", "min-replicas-to-write", "0"),
    ),
    "no memory": (("CONFIG", "SET", "maxmemory", "1000"), ("CONFIG", "SET", "maxmemory", "0")),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_redis_that_refuses_is_waited_for(greenkit_valkey: ValkeyServer, tmp_path: Path, kind: str) -> None:
    """Nothing is lost, run twice or left booked, and the worker lives."""
    with ValkeyServer(own=True) as server:
        urls = server.broker_url, greenkit_valkey.broker_url, greenkit_valkey.url
        with (
            Worker(*urls, tmp_path) as worker,
            Worker(server.broker_url, server.broker_url, server.url, tmp_path) as broker,
            worker.running("-P", "gevent", "-c", "4", "--prefetch-multiplier", "2"),
        ):
            worker.notes.flushdb()
            for number in range(20):
                worker.send("count", number, 0.3)
            worker.wait(lambda: worker.notes.hlen("runs") >= 4)
            broker.notes.execute_command(*REFUSALS[kind][0])
            # With no memory left it still gives messages out; a replica gives none.
            worker.wait(lambda: "the next try is in" in worker.text() or worker.notes.hlen("runs") == 20)
            broker.notes.execute_command(*REFUSALS[kind][1])
            worker.wait(lambda: int(worker.notes.get("ended") or 0) >= 20 and settled(broker))
            assert runs(worker) == [1] * 20
            assert worker.end() == 0


@pytest.mark.parametrize("rate", [5, 10, 100])
def test_a_rate_limit_lets_through_what_it_says(worker: Worker, rate: int) -> None:
    """A hundred tasks wait on an idle worker, over a reconnect too; one a second would take longer."""
    conf = {"task_annotations": {"celery_app.count": {"rate_limit": f"{rate}/s"}}}
    for number in range(100):
        worker.send("count", number, 0.0)
    with worker.running("-P", "gevent", "-c", "200", "--prefetch-multiplier", "1", TEST_CONF=repr(conf)):
        worker.wait(lambda: worker.notes.hlen("runs") >= 20)
        assert worker.notes.client_kill_filter(_type="normal", skipme=True) > 0
        worker.wait(lambda: worker.notes.hlen("runs") == 100 and settled(worker), 60)
        assert "Connection to broker lost" in worker.text()
        assert runs(worker) == [1] * 100
        assert worker.end() == 0
