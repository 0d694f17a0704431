"""A shared limit whose backend freezes, dies, forgets or comes back; and processes of all kinds."""

from __future__ import annotations

import itertools
import subprocess
import sys
import textwrap

import gevent
import pytest
import redis

from greenkit.errors import ConfigError, LimitTimeout
from greenkit.limits import Limiter
from greenkit.testing import PostgresServer, ValkeyServer

_numbers = itertools.count()


@pytest.fixture
def server():
    with ValkeyServer(own=True) as server:
        yield server


@pytest.fixture
def name():
    return f"faults-{next(_numbers)}"


def pass_once(limit, **options):
    with limit.permit(**options):
        pass


def until(condition):
    with gevent.Timeout(20):
        while not condition():
            gevent.sleep(0.005)


def grants(limit):
    """Return how many go now."""
    many = 0
    while limit.try_permit():
        many += 1
    return many


def test_two_share_one_budget_its_pauses_and_its_debts(greenkit_valkey, name):
    """What one takes, settles, pauses or is told, the other finds."""
    one, other = (
        Limiter(name, requests="1/day burst 10", tokens="1/day burst 100", share=greenkit_valkey.url)
        for _ in range(2)
    )
    with one.permit(tokens=90) as permit:
        assert not other.try_permit(tokens=20)
        permit.settle(tokens=10)
    until(lambda: other.try_permit(tokens=80))
    assert grants(one) == 8
    two = Limiter(name + "b", requests="1000/s burst 100", share=greenkit_valkey.url)
    three = Limiter(name + "b", requests="1000/s burst 100", share=greenkit_valkey.url)
    two.observe(429, {"retry-after": "100"})
    until(lambda: not three.try_permit())
    assert three.try_permit().retry_after > 90
    assert three.statistics().pace < 1
    waiting = gevent.spawn(pass_once, two)
    until(lambda: two.statistics().waiting)
    three.resume()
    waiting.get(timeout=10)


def test_slots_are_one_pot(greenkit_valkey, name):
    """Three slots for two processes; one that comes free here is had there."""
    one, other = (Limiter(name, concurrency=3, share=greenkit_valkey.url) for _ in range(2))
    with one.permit(), one.permit():
        with other.permit():
            assert not one.try_permit()
            assert not other.try_permit()
        waiting = gevent.spawn(pass_once, other)
        waiting.get(timeout=10)
        with other.permit():
            waiting = gevent.spawn(pass_once, other)
            until(lambda: other.statistics().waiting)
    waiting.get(timeout=10)
    assert (one.statistics().in_use, other.statistics().in_use) == (0, 0)


@pytest.mark.parametrize("fault", ["freeze", "kill"])
def test_without_its_backend_a_limit_goes_on_alone(server, name, fault, caplog):
    """Those in line and those who come are let through at this process's share; then it is shared again."""
    caplog.set_level("INFO", "greenkit.limits")
    limit = Limiter(name, requests="300/s burst 1", share=server.url)
    pass_once(limit)
    assert limit.statistics().backend == "shared"
    jobs = [gevent.spawn(pass_once, limit) for _ in range(200)]
    until(lambda: limit.statistics().granted > 20)
    getattr(server, fault)()
    gevent.joinall(jobs, timeout=20, raise_error=True)
    assert all(job.ready() for job in jobs)
    assert limit.statistics().backend == "local"
    server.thaw() if fault == "freeze" else server.start()
    until(lambda: limit.statistics().backend == "shared")
    pass_once(limit)
    told = [record.levelname for record in caplog.records if record.name == "greenkit.limits"]
    assert told == ["WARNING", "INFO"], "said once when it went, and once when it came"


@pytest.mark.parametrize("fault", ["freeze", "kill"])
def test_coming_back_is_no_burst(server, name, fault):
    """An hour's burst was unused when the backend went away, and is not there when it is back."""
    limit = Limiter(name, requests="60/hour burst 50", share=server.url)
    assert limit.try_permit()
    getattr(server, fault)()
    assert not limit.try_permit(), "alone it begins without a burst too"
    assert limit.statistics().backend == "local"
    server.thaw() if fault == "freeze" else server.start()
    until(lambda: limit.statistics().backend == "shared")
    assert grants(limit) <= 1


def test_a_backend_that_forgot_is_reminded(server, name):
    """Flushed, it is told what was out; nobody gets the burst a second time."""
    limit = Limiter(name, requests="1/hour burst 5", share=server.url)
    assert grants(limit) == 5
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
    assert grants(limit) == 0
    assert limit.statistics().backend == "shared"


def test_a_failover_that_loses_the_last_second_loses_no_grant(server, name):
    """The record of a second ago is not believed: the process remembers a later one."""
    limit = Limiter(name, requests="1/hour burst 10", share=server.url)
    assert limit.try_permit()
    key = f"greenkit:limit:{{{name}}}"
    with redis.Redis.from_url(server.url) as client:
        old = client.dump(key)
        assert grants(limit) == 9
        client.restore(key, 0, old, replace=True)
    assert grants(limit) == 0


def test_open_lets_everything_through(server, name):
    """While the backend is away; afterwards the limit holds again."""
    limit = Limiter(name, requests="1/day burst 2", share=server.url, on_backend_error="open")
    pass_once(limit)
    server.freeze()
    for _ in range(20):
        pass_once(limit)
    assert limit.try_permit()
    assert limit.statistics().backend == "open"
    server.thaw()
    until(lambda: limit.statistics().backend == "shared")
    assert grants(limit) <= 1


def test_closed_lets_nothing_through(server, name):
    """Until the backend is back; who cannot wait is told."""
    limit = Limiter(name, requests="100/s burst 10", share=server.url, on_backend_error="closed")
    pass_once(limit)
    server.freeze()
    waiting = gevent.spawn(pass_once, limit)
    until(lambda: limit.statistics().backend == "closed")
    assert not limit.try_permit()
    with pytest.raises(LimitTimeout), limit.permit(timeout=0.2):
        pass
    assert not waiting.ready()
    server.thaw()
    waiting.get(timeout=20)
    assert limit.statistics().backend == "shared"


@pytest.mark.parametrize("strict", [False, True])
def test_alone_a_worker_keeps_to_its_share(server, name, strict):
    """Of two known workers each has half the rate, strict or not, and half the slots."""
    one, other = (
        Limiter(name, requests="120/hour burst 2", concurrency=6, strict=strict, share=server.url)
        for _ in range(2)
    )
    for limit in (one, other, one):
        limit.try_permit()
    server.freeze()
    alone = one.try_permit().retry_after
    seen = one.statistics()
    assert seen.backend == "local"
    assert seen.concurrency == 3
    # Half of two a minute, or one less in each hour of 60 when it has to be strict; the bucket began empty.
    interval = 3600 / 59 if strict else 60.0
    assert alone == pytest.approx(interval, rel=0.05)


def test_a_backend_that_was_never_there_is_no_reason_to_stop(name):
    """Nothing listens: the limit holds in each process alone, from the first permit on."""
    limit = Limiter(name, requests="1000/s burst 1", share="redis://127.0.0.1:1/0")
    for _ in range(5):
        pass_once(limit, timeout=20)
    assert limit.statistics().backend == "local"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"share": "mysql://x"}, "redis://"),
        ({"share": 5}, "redis://"),
        ({"share": "redis://h/0", "on_backend_error": "shut"}, '"closed"'),
        ({"share": "redis://h/0", "concurrency": (1, 9)}, "adaptive"),
    ],
)
def test_a_wrong_setting_is_told_at_once(options, why):
    """Before anything is connected."""
    with pytest.raises(ConfigError, match=why):
        Limiter("a", requests="5/s", **options)


PROGRAM = """
    import sys
    if sys.argv[1] == "green":
        import greenkit.auto
    import threading, time
    from greenkit.limits import Limiter

    # Connected first: three processes that start at once may need longer for it than a backend has to answer.
    warm = Limiter(sys.argv[2] + "-warm", requests="1000/s burst 100", share=sys.argv[3])
    while not warm.try_permit() or warm.statistics().backend != "shared":
        time.sleep(0.05)
    print("ready", flush=True)
    sys.stdin.readline()
    limit = Limiter(sys.argv[2], requests="1/day burst 200", concurrency=50, share=sys.argv[3])
    granted = []

    def work():
        while True:
            try:
                with limit.permit(timeout=0.5):
                    granted.append(1)
            except Exception as error:
                assert type(error).__name__ == "LimitTimeout", error
                return

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(len(granted), limit.statistics().backend, flush=True)
"""


@pytest.mark.parametrize("backend", ["valkey", "postgres"])
def test_patched_and_unpatched_processes_share_one_budget(request, name, backend):
    """A green worker and two threaded web processes: together exactly what there is.

    A neighbour may keep the backend from answering one of them in time, which then rightly goes on alone,
    with no burst: that run tells only that they had no more.
    """
    share = {
        "valkey": lambda: request.getfixturevalue("greenkit_valkey").url,
        "postgres": lambda: request.getfixturevalue("greenkit_database"),
    }[backend]()
    for number in range(5):
        told = all_together([(kind, f"{name}-{number}", share) for kind in ("green", "plain", "plain")])
        granted = sum(int(many) for many, _ in told)
        if [how for _, how in told] == ["shared"] * 3:
            assert granted == 200, told
            return
        assert granted <= 200, told
    pytest.fail(f"not once did all three share: {told}")


def all_together(arguments):
    """Run a process for each, and let them go when all are ready; return the words they end with."""
    program = textwrap.dedent(PROGRAM)
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", program, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for words in arguments
    ]
    for run in runs:
        assert run.stdout.readline() == "ready\n"
    return [run.communicate("go\n", timeout=60)[0].split() for run in runs]


FIRST = """
    import greenkit.auto
    import threading
    from gevent import monkey
    from gevent._hub_local import get_hub_if_exists
    from greenkit.limits import Limiter, _sync
    import sys

    _sync._IDLE = 0.3
    native = monkey.get_original("_thread", "_count")
    limit = Limiter(sys.argv[1], requests="2/s burst 1", share=sys.argv[2])
    assert get_hub_if_exists() is None
    for _ in range(3):
        with limit.permit():
            pass
    [agent] = _sync._syncs.values()
    assert agent._where is None, "the agent was to have a thread of its own"
    import gevent
    while native():  # it ends, being idle
        gevent.sleep(0.05)
    gevent.joinall([gevent.spawn(limit.permit().__enter__) for _ in range(2)], raise_error=True)
    print(limit.statistics().granted, native(), flush=True)
"""


def test_the_first_permit_may_come_before_any_hub(greenkit_valkey, name):
    """A patched program that never switched: its agent has a thread, ends quietly, and goes on in the hub."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FIRST), name, greenkit_valkey.url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout.split(), done.stderr) == (["5", "0"], "")


FORK = """
    import os, sys
    import greenkit.auto
    import gevent
    from greenkit.limits import Limiter

    limit = Limiter(sys.argv[1], requests="1/day burst 100", share=sys.argv[2])

    def take(many):
        def one():
            with limit.permit(timeout=20):
                pass
        gevent.joinall([gevent.spawn(one) for _ in range(many)], raise_error=True)

    take(20)
    pid = os.fork()
    take(30)
    if not pid:
        os._exit(0 if limit.statistics().backend == "shared" else 9)
    assert os.waitpid(pid, 0)[1] == 0
    left = 0
    while limit.try_permit():
        left += 1
    print(left, flush=True)
"""


def test_a_forked_child_talks_for_itself(greenkit_valkey, name):
    """Both go on, on connections of their own, and take from the same budget."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(FORK), name, greenkit_valkey.url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == ["20"], done.stderr


@pytest.mark.parametrize("fault", ["freeze", "kill"])
def test_postgres_may_go_away_and_come_back(name, fault):
    """As with the other store: alone meanwhile, and no burst afterwards."""
    with PostgresServer(own=True) as server:
        limit = Limiter(name, requests="60/hour burst 50", share=server.dsn)
        assert limit.try_permit()
        getattr(server, fault)()
        assert not limit.try_permit()
        assert limit.statistics().backend == "local"
        server.thaw() if fault == "freeze" else server.start()
        until(lambda: limit.statistics().backend == "shared")
        assert grants(limit) <= 1


def test_a_cluster_keeps_a_limit_in_one_place(name):
    """A client of a cluster is a backend too; keys have places of their own."""
    with ValkeyServer(own=True, tcp=True, settings={"cluster-enabled": "yes"}) as server:
        with redis.Redis.from_url(server.url) as node:
            node.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            until(lambda: node.cluster("info")["cluster_state"] == "ok")
        with redis.RedisCluster.from_url(server.url) as cluster:
            limit = Limiter(name, requests="1/day burst 5", share=cluster)
            assert grants(limit) == 5
            assert [grants(limit.key(user)) for user in range(4)] == [5] * 4
            assert limit.statistics().backend == "shared"


NEVER_THERE = """
    import sys, time
    if sys.argv[1] == "green":
        import greenkit.auto
    from greenkit.limits import Limiter

    limit = Limiter("never", requests="60/s burst 60", share=sys.argv[2], processes=3)
    begun = time.monotonic()
    granted = 0
    while time.monotonic() - begun < 3.0:
        granted += bool(limit.try_permit())
        time.sleep(0.002)
    print(granted, time.monotonic() - begun, limit.statistics().backend, flush=True)
"""


def test_three_processes_that_never_reached_the_backend_keep_to_a_third_each():
    """It is down from the start: together no more than the rate, and nobody begins with the burst."""
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(NEVER_THERE), kind, "redis://127.0.0.1:1/0"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for kind in ("green", "plain", "green")
    ]
    told = [run.communicate(timeout=60)[0].split() for run in runs]
    for granted, seconds, backend in told:
        assert backend == "local"
        assert 1 <= int(granted) <= 20 * (float(seconds) + 0.01) + 1, told


ENDLESS = """
    import socket, threading, time
    from gevent import monkey
    from greenkit.limits import Limiter

    assert not monkey.is_module_patched("socket")
    listener = socket.create_server(("127.0.0.1", 0))
    cut = threading.Event()

    def answer_without_end():
        conn, _ = listener.accept()
        conn.sendall(b"$1000000000\\r\\n")
        try:
            while True:
                conn.sendall(b"x")
                time.sleep(0.02)
        except OSError:
            cut.set()

    for _ in range(4):
        threading.Thread(target=answer_without_end, daemon=True).start()
    limit = Limiter("endless", requests="1000/s burst 1", share=f"redis://127.0.0.1:{listener.getsockname()[1]}/0")
    for _ in range(5):
        with limit.permit(timeout=20):
            pass
    print(limit.statistics().backend, cut.wait(20), flush=True)
"""


def test_an_answer_that_never_ends_is_cut_off_in_an_unpatched_process():
    """Its client waits for each piece anew; the limit goes on alone, and the connection is given up."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(ENDLESS)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == ["local", "True"], done.stderr


BUSY = """
    import logging, sys, time
    import greenkit.auto
    import gevent
    from greenkit.limits import Limiter

    logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
    limit = Limiter("busy-" + sys.argv[1], requests="1000/s burst 1", share=sys.argv[2])
    late = []

    def hog():
        while True:
            gevent.sleep(0.002)
            began = time.monotonic()
            while time.monotonic() - began < 0.5:
                pass
            late.append(limit.statistics().backend)

    gevent.spawn(hog)
    while len(late) < 4:
        with limit.permit(timeout=60):
            pass
    print(len(late), set(late), flush=True)
"""


def test_a_process_that_is_kept_busy_does_not_take_its_backend_for_dead(greenkit_valkey, name):
    """Its hub stands still for twice as long as an answer may take; the answer was there all the time."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(BUSY), name, greenkit_valkey.url],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert "WARNING" not in done.stdout, done.stdout
    many, backends = done.stdout.split(maxsplit=1)
    assert int(many) > 1, "the hub never stood still"
    assert backends.strip() == "{'shared'}"
