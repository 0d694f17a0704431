"""Sessions over real TLS against a server that cuts, stalls, sends elsewhere, and asks who is there."""

from __future__ import annotations

import pytest

from tests.integration.tls_world import tls_world

pytest.importorskip("requests")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Give a server and the way to run programs against it."""
    with tls_world(tmp_path_factory.mktemp("tls")) as made:
        yield made


@pytest.mark.parametrize("way", ["cut", "half", "reset"])
def test_a_connection_the_server_ended_is_not_used_again(world, way):
    """Closed, half closed or reset after an answer: the next call, a POST even, takes a fresh connection."""
    world.run(f"""
before = stats()
with session(2, verify=CA) as client:
    for _ in range(10):
        assert client.get(URL + "/{way}").ok
        gevent.sleep(0.1)  # the end of the connection is on its way
        assert client.post(URL + "/ok", data=b"once").ok
seen = stats(before)
assert seen["requests"] >= 20, seen
assert 10 <= seen["connections"] <= 13, seen
""")


def test_headers_that_never_end_are_ended_by_a_deadline(world):
    """A server that dribbles resets every read time-out; a gevent.Timeout ends it and nothing stays."""
    world.run("""
from greenkit.limits import Limiter
limiter = Limiter("one", requests="1000/s", concurrency=1)
with session(1, verify=CA, timeout=(5.0, 1.0)) as client:
    for _ in range(3):
        def slow():
            with gevent.Timeout(0.3), limiter.permit():
                client.get(URL + "/dribble")
        raises(gevent.Timeout, slow)
        assert limiter.statistics().in_use == 0
        assert client.get(URL + "/ok").ok
""")


def test_headers_that_come_too_late_time_out(world):
    """Silence for longer than the read time-out is a ReadTimeout, and the connection's place is free."""
    world.run("""
with session(1, verify=CA, timeout=(5.0, 0.2)) as client:
    for _ in range(3):
        raises(requests.exceptions.ReadTimeout, client.get, URL + "/silent/1")
        assert client.get(URL + "/ok").ok
""")


def test_redirects_need_no_second_connection(world):
    """A chain of redirects passes through a pool of one; another host gets no credentials."""
    world.run("""
with session(1, verify=CA, timeout=5.0) as client:
    for stream in (False, True):
        answer = client.get(URL + "/to/to/to/ok", stream=stream)
        assert (answer.ok, len(answer.history), answer.content) == (True, 3, b"ok"), answer.history
    here = client.get(URL + "/to/who/", auth=("ann", "secret")).json()
    elsewhere = URL.replace("127.0.0.1", "localhost")
    there = client.get(f"{URL}/to/{elsewhere}/who/", auth=("ann", "secret")).json()
    assert here[1].startswith("Basic") and there[1] is None, (here, there)
""")


def test_a_proxy_carries_calls_and_keeps_connections(world):
    """Through a CONNECT proxy TLS is checked end to end, connections are kept, and the pool is bounded."""
    world.run("""
before = stats()
with session(4, verify=CA) as client:
    client.proxies = {"https": PROXY}
    for _ in range(3):
        gevent.joinall([gevent.spawn(client.get, URL + "/ok") for _ in range(12)], raise_error=True)
    seen = stats(before)
    assert 1 <= seen["tunnels"] <= 4 and seen["requests"] == 37, seen
    elsewhere = URL.replace("127.0.0.1", "127.0.0.2")
    raises(requests.exceptions.SSLError, client.get, elsewhere)
    client.proxies = {"https": "http://127.0.0.1:1"}
    raises(requests.exceptions.ProxyError, client.get, URL)
with session(4, verify=CA) as client:
    before = stats()
    os.environ["https_proxy"] = PROXY
    assert client.get(URL + "/ok").ok
    os.environ["no_proxy"] = "127.0.0.1"
    assert client.get(URL + "/ok").ok
    assert stats(before)["tunnels"] == 1
""")


ABANDON = """
from greenkit.limits import Limiter
limiter = Limiter("two", requests="1000/s", concurrency=2)

def settled(client):
    for _ in range(4):
        assert client.get(URL + "/ok", timeout=5.0).ok
    assert limiter.statistics().in_use == 0
    for _ in range(100):
        if stats().get("streams") == 0:
            return
        gevent.sleep(0.02)
    raise AssertionError("the server still sends")
"""


@pytest.mark.parametrize("way", ["close", "forget", "kill", "raise", "cycle"])
def test_a_body_abandoned_half_way_gives_back_connection_and_permit(world, way):
    """However a streamed answer is left, its place in a full pool is free at once and the server stops."""
    world.run(
        ABANDON
        + f"""
way = {way!r}
def half(client):
    with limiter.permit():
        answer = client.get(URL + "/endless", stream=True)
        pieces = answer.iter_content(1000)
        next(pieces)
        if way == "close":
            answer.close()
        if way == "kill":
            gevent.sleep(60)
        if way == "raise":
            raise ValueError
        if way == "cycle":
            answer.myself = answer, pieces

gc.disable()  # only what the session does itself helps
with session(2, verify=CA, timeout=5.0) as client:
    for _ in range(3):
        jobs = [gevent.Greenlet(half, client) for _ in range(2)]
        for job in jobs:
            job.start()
        if way == "kill":
            while stats().get("streams", 0) < 2:
                gevent.sleep(0.01)
            gevent.killall(jobs)
        for job in jobs:
            if way == "raise":
                gevent.get_hub().print_exception = lambda *error: None
                raises(ValueError, job.get)
            job.join()
        del jobs, job
        settled(client)
"""
    )


def test_urllib3_loses_the_place_of_a_forgotten_response(world):
    """The reason for taking it back ourselves: urllib3's bounded pool has one place less for ever."""
    world.run("""
import urllib3
with urllib3.PoolManager(maxsize=1, block=True, ca_certs=CA) as plain:
    answer = plain.request("GET", URL + "/endless", preload_content=False, pool_timeout=1.0)
    answer.read(1000)
    del answer
    gc.collect()
    raises(urllib3.exceptions.EmptyPoolError, plain.request, "GET", URL + "/ok", pool_timeout=0.2)
""")


def test_looking_at_an_idle_connection_makes_no_hub_trip(world):
    """urllib3 polls its idle connection through gevent before every call; ours asks the kernel itself."""
    world.run("""
import select as patched
from gevent import select
trips = 0
class Counting(select.poll):
    def poll(self, timeout=None):
        global trips
        trips += timeout == 0
        return super().poll(timeout)
patched.poll = Counting
import urllib3.util.wait
urllib3.util.wait.wait_for_socket = urllib3.util.wait.poll_wait_for_socket

def looks(client):
    global trips
    for _ in range(3):
        client.get(URL + "/ok")
        trips, seen = 0, trips
    return seen
with requests.Session() as plain:
    plain.verify = CA
    assert looks(plain), "urllib3 no longer polls through gevent: _Looking may go"
with session(1, verify=CA) as client:
    assert not looks(client)
""")


def test_a_client_certificate_is_shown_and_loaded_once(world):
    """A certificate is shown where one is asked for; one context serves all, a new file makes a new one."""
    world.run("""
import shutil, ssl
from urllib3.util import ssl_
loaded = []
class Counting(ssl_.SSLContext):
    def load_verify_locations(self, *args, **options):
        loaded.append(args or options)
        super().load_verify_locations(*args, **options)
ssl_.SSLContext = Counting
with session(6, verify=CA) as client:
    raises(requests.exceptions.ConnectionError, client.get, STRICT + "/who/")
    assert len(loaded) == 1
    for cert in (CERT, (CERT, CERT)):
        client.cert = cert
        jobs = [gevent.spawn(client.get, STRICT + "/who/") for _ in range(6)]
        assert all("client" in job.get().json()[0] for job in jobs)
    assert len(loaded) == 3, loaded
    client.cert = copy = CERT + ".copy"
    assert "client certificate" in str(raises(OSError, client.get, STRICT + "/who/"))
    for _ in range(2):
        shutil.copyfile(CERT, copy + ".new"); os.replace(copy + ".new", copy)  # as a rotation does
        assert client.get(STRICT + "/who/").ok and client.get(STRICT + "/who/").ok
    assert len(loaded) == 5, loaded
    client.cert = None
    assert client.get(URL + "/who/").json()[0] == []
""")


LOOKUPS = """
class Slow:
    # The hub's own resolver, as slow as a name server is.
    def __init__(self, resolver): self.resolver, self.asked = resolver, 0
    def __getattr__(self, name): return getattr(self.resolver, name)
    def getaddrinfo(self, *args, **options):
        self.asked += 1
        gevent.sleep(0.2)
        return self.resolver.getaddrinfo(*args, **options)
slow = gevent.get_hub().resolver = Slow(gevent.get_hub().resolver)
NAMED = URL.replace("127.0.0.1", "localhost")

def crowd(client):
    gevent.joinall([gevent.spawn(client.get, NAMED + "/ok") for _ in range(30)], raise_error=True)
    return slow.asked
"""


def test_the_first_crowd_looks_its_host_up_once(world):
    """30 first connections at once are one lookup; without a session each is one."""
    world.run(
        LOOKUPS
        + """
with session(30, verify=CA) as client:
    assert crowd(client) == 1, slow.asked
"""
    )
    world.run(
        LOOKUPS
        + """
import logging; logging.getLogger("urllib3").setLevel(logging.ERROR)
with requests.Session() as plain:
    plain.verify = CA
    assert crowd(plain) >= 10, "gevent shares lookups by now: coalesce_lookups() may go"
"""
    )


def test_the_sdks_client_bears_the_same(world):
    """Idle connections that ended, a CONNECT proxy and redirects: what serves the SDKs copes alike."""
    pytest.importorskip("openai")
    world.run("""
def open_client():
    return openai_client(2, base_url=URL, api_key="k", verify=CA)._client
client, before = open_client(), stats()
for way in ("cut", "half", "reset"):
    for _ in range(4):
        assert client.get(f"{URL}/{way}").is_success
        gevent.sleep(0.1)
        assert client.post(URL + "/ok", content=b"once").text == "ok"
assert 12 <= stats(before)["connections"] <= 15, stats(before)
assert client.get(URL + "/to/to/ok").text == "ok"
os.environ["https_proxy"] = PROXY
before, client = stats(), open_client()
gevent.joinall([gevent.spawn(client.get, URL + "/ok") for _ in range(8)], raise_error=True)
del os.environ["https_proxy"]
assert 1 <= stats(before)["tunnels"] - 1 <= 2, stats(before)  # one asked for the counters
""")
