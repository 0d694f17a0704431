"""A shared limit behind Sentinel: the master dies, and the replica that takes over has forgotten a second."""

from __future__ import annotations

import subprocess
import time
from urllib.parse import urlsplit

import gevent
import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from redis.sentinel import Sentinel

from greenkit.limits import Limiter
from greenkit.testing import ValkeyServer
from greenkit.testing._find import valkey_binary
from greenkit.testing._place import free_port

SHORT = {"socket_timeout": 0.2, "socket_connect_timeout": 0.2, "retry": Retry(NoBackoff(), 0)}
CONFIGURATION = """
port {port}
bind 127.0.0.1
dir {folder}
sentinel monitor mymaster 127.0.0.1 {master} 1
sentinel auth-pass mymaster {password}
sentinel down-after-milliseconds mymaster 500
sentinel failover-timeout mymaster 3000
"""


def until(condition):
    with gevent.Timeout(60):
        while not condition():
            gevent.sleep(0.02)


def answers(ask):
    """Return what `ask()` says, or None while nobody is there."""
    try:
        return ask()
    except RedisError:
        return None


@pytest.fixture
def house(tmp_path):
    """Yield (master, replica, sentinel client, password) of a house with one of each."""
    with ValkeyServer(own=True, tcp=True) as master:
        at = urlsplit(master.url)
        follow = {
            "replicaof": f"127.0.0.1 {at.port}",
            "masterauth": at.password,
            "requirepass": at.password,
        }
        with ValkeyServer(own=True, tcp=True, settings=follow) as replica:
            port, file = free_port(), tmp_path / "sentinel.conf"
            text = CONFIGURATION.format(port=port, folder=tmp_path, master=at.port, password=at.password)
            file.write_text(text, encoding="utf-8")
            process = subprocess.Popen(
                [valkey_binary(), file, "--sentinel"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            try:
                sentinel = Sentinel([("127.0.0.1", port)], sentinel_kwargs=SHORT)
                until(lambda: answers(lambda: sentinel.discover_slaves("mymaster")))
                with Redis(port=at.port, password=at.password) as client:
                    until(lambda: _online(client))
                yield master, replica, sentinel, at.password
            finally:
                process.terminate()
                process.wait(20)


def _online(client):
    one = client.info("replication").get("slave0")
    return isinstance(one, dict) and one.get("state") == "online"


def tick(longest):
    """Keep in `longest` for how many seconds at most this process did not run: a grant is noted so late."""
    last = time.monotonic()
    while True:
        gevent.sleep(0.001)
        now = time.monotonic()
        longest[0], last = max(longest[0], now - last), now


def fullest_second(instants):
    first = most = 0
    for last, instant in enumerate(instants):
        while instants[first] <= instant - 1.0:
            first += 1
        most = max(most, last - first + 1)
    return most


@pytest.mark.timeout(180)
def test_a_failover_that_forgets_a_second_is_no_burst(house):
    """Those who wait go on alone, come back to the new master, and no second sees more than the bound."""
    master, replica, sentinel, password = house
    client = sentinel.master_for("mymaster", password=password, **SHORT)
    limit = Limiter("failover", requests="200/s burst 10", share=client)
    granted, modes = [], []

    def one():
        while True:
            with limit.permit():
                granted.append(time.monotonic())
                modes.append(limit.statistics().backend)

    stalled = [0.0]
    jobs = [gevent.spawn(one) for _ in range(30)] + [gevent.spawn(tick, stalled)]
    try:
        until(lambda: len(granted) > 200)
        before = sentinel.discover_master("mymaster")
        replica.freeze()
        seen = len(granted)
        until(lambda: len(granted) > seen + 200)  # a second's worth the replica knows nothing of
        master.kill()
        replica.thaw()
        until(lambda: modes[-1] == "local")
        until(lambda: answers(lambda: sentinel.discover_master("mymaster")) not in (None, before))
        until(lambda: modes[-1] == "shared")
        seen = len(granted)
        until(lambda: len(granted) > seen + 200)
    finally:
        gevent.killall(jobs)
    alone = modes.count("local")
    assert alone > 20, "nobody was let through while there was no master"
    assert "shared" in modes[modes.index("local") :], "it never came back"
    # Burst, rate, the jitter credit, and what was on its way when the fault came; grants are noted late
    # by as long as the machine kept the process from running, and then come together.
    late = 200 * stalled[0]
    assert fullest_second(granted) <= 10 + 200 + 2 + 1 + late, (fullest_second(granted), stalled)
