"""A large Redis message: taken and booked by commands, whatever happens between two of them."""

from __future__ import annotations

import json
import signal
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import redis
from kombu import Connection

from greenkit.celery import _redis_large
from greenkit.celery._redis_scripts import booked_by, booking_end, give_back
from greenkit.testing import FaultProxy, ValkeyServer
from tests.integration.celery_worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore")
MESSAGE = json.dumps({"body": "x" * 100_000, "headers": {}, "properties": {"delivery_info": {}}}).encode()


@pytest.fixture(params=["", "mine."])
def channel(greenkit_valkey: ValkeyServer, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Give kombu's channel on an empty database, without and with a prefix before its keys."""
    options = {"global_keyprefix": request.param}
    with Connection(greenkit_valkey.broker_url, transport_options=options) as connection:
        channel = connection.default_channel
        channel.client.flushdb()
        with closing(channel):
            yield channel
            channel.client.flushdb()


def keys(channel: Any) -> list[str]:
    prefix = channel.global_keyprefix
    found = {key.decode() for key in channel.client.keys("*")}
    assert all(key.startswith(prefix) for key in found)
    return sorted(key.removeprefix(prefix) for key in found)


def take(channel: Any, call: str = "call") -> Any:
    return _redis_large.take(channel, call, "work", f"{call}.1", booking_end("work"))


def test_it_is_booked_as_kombu_books_it(channel: Any) -> None:
    """Kombu itself gives it back, to the list it came from."""
    channel.client.lpush("work", MESSAGE)
    assert take(channel) == (MESSAGE, "call.1")
    assert keys(channel) == ["unacked", "unacked_index"]
    channel.qos.restore_by_tag("call.1")
    assert keys(channel) == ["work"]
    assert json.loads(channel.client.rpop("work"))["body"] == "x" * 100_000


def test_an_empty_list_and_what_is_no_message_book_nothing(channel: Any) -> None:
    """Nothing stays behind of either."""
    assert take(channel) is None
    channel.client.lpush("work", b"garbage")
    assert take(channel) == (b"garbage", "")
    assert keys(channel) == []


@pytest.mark.parametrize("at", range(6))
def test_a_worker_that_dies_at_any_step_loses_nothing(
    channel: Any, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Before and after the move, the look and the booking: the next connection puts it back, once."""
    channel.client.lpush("work", MESSAGE)
    points = iter(range(6))
    pipelines = redis.client.Pipeline

    def dying(function: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            if next(points) == at:
                raise KeyboardInterrupt
            answer = function(*args, **kwargs)
            if next(points) == at:
                raise KeyboardInterrupt
            return answer

        return run

    with monkeypatch.context() as patch:
        patch.setattr(pipelines, "execute", dying(pipelines.execute))
        patch.setattr(pipelines, "watch", dying(pipelines.watch))
        with pytest.raises(KeyboardInterrupt):
            take(channel)
    give_back(channel, booked_by(channel, "call").items())
    assert [key for key in keys(channel) if not key.startswith("greenkit.call")] == ["work"]
    assert channel.client.llen("work") == 1


def test_a_list_that_went_back_meanwhile_is_not_booked(channel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that was frozen for a minute finds its message given out again."""
    channel.client.lpush("work", MESSAGE)
    pipelines, booking = redis.client.Pipeline, iter((False, True))

    def late(pipe: Any, execute: Any = pipelines.execute) -> Any:
        if next(booking):
            monkeypatch.setattr(time, "time", lambda: 9e9)
            _redis_large.return_stale(channel)
        return execute(pipe)

    monkeypatch.setattr(pipelines, "execute", late)
    with pytest.raises(ConnectionError):
        take(channel)
    assert keys(channel) == ["work"]


def test_a_connection_lost_while_it_watches_is_a_lost_connection(
    channel: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Celery ends a worker on what redis-py calls it; the consumer reconnects and finds the message."""
    channel.client.lpush("work", MESSAGE)
    pipelines, struck = redis.client.Pipeline, []

    def cut(pipe: Any, *names: Any, watch: Any = pipelines.watch) -> Any:
        answer = watch(pipe, *names)
        struck.append(channel.client.client_kill_filter(_type="normal", skipme=True))
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(pipelines, "watch", cut)
        with pytest.raises(ConnectionError, match="may be booked or not"):
            take(channel)
    assert struck[0] > 0, "no connection was lost"
    _redis_large.return_held(channel, "call")
    assert keys(channel) == ["work"]


def test_what_a_dead_worker_held_goes_back_to_the_head(channel: Any) -> None:
    """Not before it is stale; what a command said twice moved goes back too."""
    client, prefix = channel.client, channel.global_keyprefix
    for number in range(3):
        client.lpush("work", b"%d" % number)
    client.zadd("greenkit.held", {"dead work": time.time() - 50})
    for _ in range(2):
        client.rpoplpush(f"{prefix}work", f"{prefix}greenkit.held.dead")
    _redis_large.return_stale(channel)
    assert client.llen("work") == 1
    client.zadd("greenkit.held", {"dead work": time.time() - 70})
    _redis_large.return_stale(channel)
    assert keys(channel) == ["work"]
    assert [client.rpop("work") for _ in range(3)] == [b"0", b"1", b"2"]


PAD = {"pad": "x" * 200_000}


def many(worker: Worker, count: int) -> None:
    for number in range(count):
        headers = PAD if number % 3 else {}
        worker.send("count", number, 0.02, queue="celery", priority=3 * (number % 2), headers=headers)


def settled(worker: Worker) -> bool:
    queues = "celery", "celery\x06\x163", "greenkit.held", "unacked"
    return not worker.notes.exists(*queues)


def runs(worker: Worker) -> list[int]:
    return sorted(int(count) for count in worker.notes.hvals("runs"))


def test_large_and_small_ones_mix(worker: Worker) -> None:
    """No script copies a large one; each task runs once, through kills as well."""
    many(worker, 90)
    late = {"TEST_TRANSPORT": "{'visibility_timeout': 5, 'unacked_restore_interval': 1}"}
    with worker.running("-P", "gevent", "-c", "8", **late):
        worker.wait(lambda: worker.notes.hlen("runs") == 90 and settled(worker))
        assert runs(worker) == [1] * 90
        assert worker.notes.info("commandstats")["cmdstat_rpoplpush"]["calls"] >= 60
        many(worker, 90)
        worker.wait(lambda: max(runs(worker)) == 2)
        assert worker.process is not None
        worker.process.kill()
    with worker.running("-P", "gevent", "-c", "8", **late):
        worker.wait(lambda: min(runs(worker)) == 2 and settled(worker))
        assert worker.end() == 0


def test_with_no_memory_left_large_ones_are_given_out(greenkit_valkey: ValkeyServer, tmp_path: Path) -> None:
    """Nothing else would make room."""
    with (
        ValkeyServer(own=True) as server,
        Worker(server.broker_url, server.broker_url, greenkit_valkey.url, tmp_path) as worker,
        Worker(server.broker_url, server.broker_url, server.url, tmp_path) as broker,
        worker.running("-P", "gevent", "-c", "1"),
    ):
        worker.notes.flushdb()
        many(worker, 12)
        worker.wait(lambda: worker.notes.hlen("runs") == 12 and settled(broker))
        used = int(broker.notes.info("memory")["used_memory"])
        assert worker.process is not None
        worker.process.send_signal(signal.SIGSTOP)
        many(worker, 12)
        broker.notes.execute_command("CONFIG", "SET", "maxmemory", str(used))
        worker.process.send_signal(signal.SIGCONT)
        worker.wait(lambda: runs(worker) == [2] * 12 and settled(broker))
        assert worker.end() == 0


def test_cuts_while_large_ones_come_lose_nothing(greenkit_valkey: ValkeyServer, tmp_path: Path) -> None:
    """Connections are reset in the middle of the messages; what was moved or booked comes again."""
    url = greenkit_valkey.broker_url
    with (
        FaultProxy(urlsplit(url).path) as proxy,
        Worker(f"redis://127.0.0.1:{proxy.port}/0", url, greenkit_valkey.url, tmp_path) as worker,
        Worker(url, url, greenkit_valkey.url, tmp_path) as publisher,
    ):
        worker.notes.flushdb()
        with worker.running("-P", "gevent", "-c", "8", "--without-heartbeat"):
            many(publisher, 30)
            for size in (100_000, 150_000, 300_000, 1_000_000):
                before = proxy.statistics().opened
                proxy.cut_after(size)  # before they are sent: what is left of the last ones may be less
                many(publisher, 30)
                worker.wait(lambda before=before: proxy.statistics().opened > before)
                proxy.cut_after(None)
            worker.wait(lambda: worker.notes.hlen("runs") == 30 and settled(worker), 60)
            assert "Connection to broker lost" in worker.text()
            assert runs(worker) == [5] * 30
            assert worker.end() == 0


def test_a_silent_connection_is_noticed(greenkit_valkey: ValkeyServer, tmp_path: Path) -> None:
    """Of an idle worker, which says nothing else that would go unanswered."""
    url = greenkit_valkey.broker_url
    with (
        FaultProxy(urlsplit(url).path) as proxy,
        Worker(f"redis://127.0.0.1:{proxy.port}/0", url, greenkit_valkey.url, tmp_path) as worker,
    ):
        quiet = "-P", "gevent", "-c", "8", "--without-heartbeat", "--without-gossip"
        with worker.running(*quiet):
            assert worker.send("nap", 0.0).get(timeout=20) == "done"
            worker.wait(lambda: settled(worker))
            time.sleep(0.3)  # its last ack is answered, and it waits
            proxy.black_hole()
            worker.wait(lambda: "Connection to broker lost" in worker.text())
            proxy.heal()
            assert worker.send("nap", 0.0).get(timeout=20) == "done"
            assert worker.end() == 0
