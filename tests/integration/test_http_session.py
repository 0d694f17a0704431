"""Sessions against a real server, in a process that gevent has patched."""

from __future__ import annotations

import pytest

from greenkit.testing import run_clean

pytest.importorskip("requests")

PRELUDE = """
import gevent.monkey; gevent.monkey.patch_all()
import gevent, requests
from greenkit.http import session
from greenkit.testing import MockLLM

ASK = {"model": "m", "messages": [{"role": "user", "content": "x"}]}

def ask(client, server, **options):
    return client.post(server.url + "/v1/chat/completions", json=ASK, **options)
"""


def run(program):
    """Run a program in a patched interpreter of its own; it must end well and say nothing."""
    done = run_clean(PRELUDE + program)
    assert (done.returncode, done.stderr) == (0, ""), str(done)
    return done.stdout


def test_a_session_holds_as_many_connections_as_calls_at_once():
    """Of 60 calls by 30 greenlets 20 run at once, over 20 connections; plain requests opens more."""
    run("""
with MockLLM(latency=0.1) as server:
    def crowd(client):
        server.reset()
        jobs = [gevent.spawn(lambda: [ask(client, server), ask(client, server)]) for _ in range(30)]
        gevent.joinall(jobs, raise_error=True)
        return server.reset()
    with session(20) as client:
        page = crowd(client)
    assert (page["ok"], page["peak_in_flight"]) == (60, 20), page
    assert page["connections"] <= 20 + 2, page  # and those that ask for the counters
    import logging; logging.getLogger("urllib3").setLevel(logging.ERROR)
    with requests.Session() as plain:
        assert crowd(plain)["connections"] > 30  # what the size is for: the default pool throws them away
""")


def test_every_answer_is_reported():
    """The observer hears of refusals too, with headers it can ask in any case."""
    run("""
class Observer:
    def __init__(self): self.heard = []
    def observe(self, status, headers):
        self.heard.append((status, "retry-after" in headers, headers.get("X-RateLimit-Limit-Requests")))
observer = Observer()
with MockLLM(requests="1/min") as server, session(5, limiter=observer) as client:
    assert [ask(client, server).status_code for _ in range(2)] == [200, 429]
assert observer.heard == [(200, False, "1"), (429, True, "1")], observer.heard
""")


def test_a_limiter_learns_from_a_session():
    """A 429 of one call pauses the limiter for everybody."""
    run("""
from greenkit.limits import Limiter
limiter = Limiter("llm", requests="1000/s")
with MockLLM(requests="6/min burst 1") as server, session(5, limiter=limiter) as client:
    ask(client, server)
    before = limiter.eta()
    ask(client, server)
    assert before < 1 < 5 < limiter.eta() < 11, (before, limiter.eta())
""")


def test_a_refusal_by_one_host_pauses_its_key_alone():
    """A function of the address finds who is told: the host's key waits, others and the whole do not."""
    run("""
from urllib.parse import urlsplit
from greenkit.limits import Limiter
hosts = Limiter("hosts", requests="1000/s")
def host_of(url): return hosts.key(urlsplit(url).netloc)
with MockLLM(requests="6/min burst 1") as busy, MockLLM() as idle, session(5, limiter=host_of) as client:
    refused = []
    for server in (busy, busy, idle):
        refused.append(ask(client, server).status_code == 429)
        refused.append(ask(client, server, stream=True).status_code == 429)  # the long way
    assert refused == [False, True, True, True, False, False], refused
    waits = {name: limiter.eta() for name, limiter in
        {"busy": host_of(busy.url), "idle": host_of(idle.url), "all": hosts}.items()}
    assert 5 < waits["busy"] < 11 and waits["idle"] < 1 and waits["all"] < 1, waits
""")


def test_an_observer_that_fails_costs_no_connection():
    """When reporting raises, the call's connection goes back all the same."""
    run("""
class Broken:
    def observe(self, status, headers): raise RuntimeError("broken")
with MockLLM() as server, session(1, limiter=Broken(), timeout=2.0) as client:
    for _ in range(3):
        try:
            ask(client, server, stream=True)
        except RuntimeError:
            continue
        raise SystemExit("not raised")
""")


def test_no_call_waits_for_ever():
    """A call without a time-out has the session's, for an answer and for a free connection."""
    run("""
with MockLLM(latency=60) as server, session(1, timeout=(5.0, 0.2)) as client:
    try:
        ask(client, server)
    except requests.exceptions.ReadTimeout:
        pass
    else:
        raise SystemExit("no read time-out")
with MockLLM() as server, session(1, timeout=(5.0, 0.2)) as client:
    held = ask(client, server, stream=True)
    try:
        ask(client, server)
    except requests.exceptions.ConnectTimeout as error:
        assert "all 1 connections" in str(error) and "0.2 s" in str(error), error
    else:
        raise SystemExit("no time-out for a connection")
    held.close()
    assert ask(client, server).status_code == 200
""")


KILL_POINTS = """
from greenkit.testing import kill_at_every_switch

class Scene:
    # Three callers of two connections: waiting for one, opening it, sending, reading.
    def __init__(self):
        self.client, self.callers = open_client(), []

    def crowd(self):
        self.callers = [gevent.spawn(ask, self.client, server, timeout=10.0) for _ in range(3)]
        gevent.joinall(self.callers)

    def name(self, greenlet):
        return "caller" if greenlet in self.callers else None

    def check(self):
        gevent.joinall(self.callers, timeout=20)
        failed = [caller.exception for caller in self.callers if caller.exception is not None]
        assert not failed, failed
        peak = 0
        for _ in range(20):  # on a busy machine the first of two calls may end before the second begins
            if peak < 2:
                server.reset()
                with gevent.Timeout(20):
                    again = [gevent.spawn(ask, self.client, server, timeout=10.0) for _ in range(4)]
                    gevent.joinall(again, raise_error=True)
                page = server.stats()
                assert page["ok"] == 4, page
                peak = page["peak_in_flight"]
        assert peak == 2, page
        self.client.close()

def kill():
    report = kill_at_every_switch(
        Scene.crowd, Scene.check, fresh=Scene, whom=lambda who, scene: scene.name(who)
    )
    assert dict(report.victims)["caller"] > 10, report
"""


def test_a_call_killed_at_any_switch_gives_back_what_it_had_and_no_more():
    """Callers killed wherever they wait leave the pool neither smaller nor larger."""
    run(
        KILL_POINTS
        + """
def open_client():
    return session(2, timeout=10.0)
with MockLLM(latency=0.005) as server:
    kill()
"""
    )


def test_the_kill_points_break_the_pool_of_plain_requests():
    """The same kills make urllib3's own bounded pool overflow: the reason for ours."""
    done = run_clean(
        PRELUDE
        + KILL_POINTS
        + """
from requests.adapters import HTTPAdapter
def open_client():
    client = requests.Session()
    client.mount("http://", HTTPAdapter(pool_maxsize=2, pool_block=True))
    return client
with MockLLM(latency=0.005) as server:
    kill()
"""
    )
    assert "FullPoolError" in done.stderr, str(done)
