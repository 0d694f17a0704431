"""What a session does with "come back later": short waits are sat out, long ones raised."""

from __future__ import annotations

import pytest

from tests.integration.tls_world import tls_world

pytest.importorskip("requests")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Give a server and the way to run programs against it."""
    with tls_world(tmp_path_factory.mktemp("tls")) as made:
        yield made


@pytest.mark.parametrize("status", [429, 503, 529])
def test_a_short_wait_is_sat_out_and_a_long_one_raised(world, status):
    """Up to max_wait the call is sent again; beyond it RateLimited, which is requests' own error too."""
    world.run(f"""
with session(1, verify=CA, max_wait=1.0) as client:
    start = time.monotonic()
    assert client.post(URL + "/later/2/{status}/0.1/a{status}", data=b"body").text == "ok"
    assert time.monotonic() - start >= 0.2
    error = raises(RateLimited, client.get, URL + "/later/9/{status}/30/b{status}")
    assert isinstance(error, requests.exceptions.HTTPError) and error.response.status_code == {status}
    assert error.retry_after == 30 and "asks to wait 30 s" in str(error) and "127.0.0.1" in str(error), error
    assert time.monotonic() - start < 1.0
    start = time.monotonic()
    raises(RateLimited, client.get, URL + "/later/9/{status}/0.4/c{status}")  # the waits add up
    assert 0.8 <= time.monotonic() - start < 1.3
with session(1, verify=CA) as client:
    assert client.get(URL + "/later/1/{status}/30/d{status}").status_code == {status}
""")


def test_answers_that_name_no_time(world):
    """A 429 without Retry-After is tried again after a guess; a 503 without it is an error like another."""
    world.run("""
with session(1, verify=CA, max_wait=5.0) as client:
    assert client.get(URL + "/later/1/429/-/e").ok
    assert client.get(URL + "/later/1/503/-/f").status_code == 503
with session(1, verify=CA, max_wait=0.0) as client:
    assert raises(RateLimited, client.get, URL + "/later/1/429/-/g").retry_after is None
""")


def test_a_quota_that_never_heals_is_not_waited_for(world):
    """insufficient_quota comes back as it is, after one call."""
    world.run("""
before = stats()
with session(1, verify=CA, max_wait=5.0) as client:
    assert client.get(URL + "/exhausted").status_code == 429
assert stats(before)["exhausted"] == 1
""")


def test_a_body_is_sent_again_only_if_it_is_still_there(world):
    """A file is wound back; a generator is gone, so the wait is the caller's."""
    world.run("""
import io
with session(1, verify=CA, max_wait=5.0) as client:
    file = io.BytesIO(b"skip this: the body")
    file.seek(11)
    assert client.post(URL + "/later/1/429/0.05/h", data=file).ok
    assert file.tell() == 19
    raises(RateLimited, client.post, URL + "/later/1/429/0.05/i", data=iter([b"gone"]))
""")


def test_a_kill_ends_a_wait(world):
    """Who sits out a wait is killed like anybody, and holds no connection while it waits."""
    world.run("""
with session(1, verify=CA, max_wait=60.0, timeout=5.0) as client:
    job = gevent.spawn(client.get, URL + "/later/9/429/50/j")
    while not stats().get("j"):
        gevent.sleep(0.01)
    gevent.sleep(0.05)
    assert client.get(URL + "/ok").ok  # on the only connection
    job.kill()
    assert client.get(URL + "/ok").ok
""")


def test_long_waits_leave_an_attempts_loop_for_celery(world):
    """Under a limiter, RateLimited pauses everybody, and comes out when the deadline cannot be met."""
    world.run("""
from greenkit.limits import Limiter
limiter = Limiter("llm", requests="1000/s")
tries = 0
def ask():
    global tries
    with session(1, limiter=limiter, verify=CA, max_wait=0.0) as client:
        for attempt in limiter.attempts(deadline=5.0):
            with attempt:
                tries += 1
                client.get(URL + "/later/9/429/60/k")
error = raises(RateLimited, ask)
assert (tries, error.retry_after) == (1, 60), (tries, error)
assert 50 < limiter.eta() <= 66, limiter.eta()
""")
