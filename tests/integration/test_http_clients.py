"""The SDKs' clients over real TLS, in patched processes, against the mock servers of their APIs."""

from __future__ import annotations

import pytest

from greenkit.testing import run_clean
from tests.integration.fork_host import ForkHost
from tests.integration.tls_world import NOT_INHERITED

trustme = pytest.importorskip("trustme")
SDKS = ["openai", "anthropic"]

PRELUDE = """
import gevent.monkey; gevent.monkey.patch_all()
import gc, os, time, gevent
from greenkit.errors import RateLimited
from greenkit.http import anthropic_client, openai_client
from greenkit.testing import MockLLM
import {sdk} as sdk

SDK, TLS, CA = "{sdk}", (os.environ["WORLD_CERT"],) * 2, os.environ["WORLD_CA"]
ASK = dict(model="m", max_tokens=50, messages=[dict(role="user", content="x")])

def mock(**options):
    return MockLLM(style=SDK, tls=TLS, **options)

def open_client(server, concurrency, **options):
    make = openai_client if SDK == "openai" else anthropic_client
    url = server.url + ("/v1" if SDK == "openai" else "")
    return make(concurrency, **dict(verify=CA, api_key="k", base_url=url) | options)

def ask(client, **options):
    door = client.chat.completions if SDK == "openai" else client.messages
    return door.create(**ASK | options)

def raises(kind, do, *args, **options):
    try:
        found = do(*args, **options)
    except kind as error:
        return error
    raise AssertionError(f"{{found}} instead of {{kind}}")
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Give a function that runs a program for an SDK in a patched process of its own; it must end well."""
    directory = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(directory / "server.pem")
    env = dict.fromkeys(NOT_INHERITED, "")
    env |= {"WORLD_CA": str(directory / "ca.pem"), "WORLD_CERT": str(directory / "server.pem")}

    hosts = {}

    def go(sdk, program):
        pytest.importorskip(sdk)
        if sdk not in hosts:
            hosts[sdk] = ForkHost(PRELUDE.format(sdk=sdk), directory / sdk, env)
        done = hosts[sdk].run(program)
        if (done.returncode, done.stderr) != (0, ""):
            hosts.pop(sdk).close()  # whatever it left must not be met by the next
            pytest.fail(str(done))

    yield go
    for host in hosts.values():
        host.close()


@pytest.mark.parametrize("sdk", SDKS)
def test_a_client_holds_as_many_connections_as_calls_at_once(run, sdk):
    """Of 60 calls by 30 greenlets 20 run at once, over 20 connections, without a fork or an own retry."""
    run(
        sdk,
        """
forks = []
os.register_at_fork(before=lambda: forks.append(1))
with mock(latency=0.3) as server:
    del forks[:]
    client = open_client(server, 20)
    assert client.max_retries == 0
    opened, forks[:] = len(forks), []
    jobs = [gevent.spawn(lambda: [ask(client), ask(client)]) for _ in range(30)]
    gevent.joinall(jobs, raise_error=True)
    page = server.stats()
    assert (page["ok"], page["peak_in_flight"]) == (60, 20), page
    assert page["connections"] <= 20 + 1, page  # and the one that asks for the counters
assert opened <= 1 and not forks, (opened, forks)
""",
    )


@pytest.mark.parametrize("sdk", SDKS)
def test_answers_are_reported_and_long_waits_raised(run, sdk):
    """The observer hears every answer; a wait above max_wait is RateLimited and the SDK's error in one."""
    run(
        sdk,
        """
class Observer:
    heard = []
    def observe(self, status, headers): self.heard.append((status, "retry-after" in headers))
with mock(requests="6/min burst 1") as server:
    client = open_client(server, 2, limiter=Observer(), max_wait=1.0)
    ask(client)
    for one in (client, client.with_options(timeout=3.0)):
        error = raises(RateLimited, ask, one)
        assert isinstance(error, sdk.RateLimitError) and error.status_code == 429
        assert 8 < error.retry_after <= 10 and "max_wait=1 s" in str(error), error
    assert Observer.heard == [(200, False), (429, True), (429, True)], Observer.heard
    error = raises(sdk.RateLimitError, ask, open_client(server, 2))
    assert not isinstance(error, RateLimited)
with mock(requests="2/s burst 1") as server:
    client = open_client(server, 2, max_wait=1.0)
    for _ in range(3):
        ask(client)
    assert server.stats()["ok"] == 3
""",
    )


@pytest.mark.parametrize("sdk", SDKS)
def test_a_function_of_the_address_finds_who_is_told(run, sdk):
    """`limiter=` may be a function of the call's address: it returns the observer of that answer."""
    run(
        sdk,
        """
asked = []
class Observer:
    heard = []
    def observe(self, status, headers): self.heard.append(status)
def of(url): asked.append(url); return Observer()
with mock(requests="6/min burst 1") as server:
    client = open_client(server, 2, limiter=of)
    ask(client)
    raises(sdk.RateLimitError, ask, client)
    assert Observer.heard == [200, 429] and all(url.startswith(server.url) for url in asked), asked
""",
    )


@pytest.mark.parametrize("sdk", SDKS)
def test_a_stream_abandoned_half_way_gives_its_connection_back(run, sdk):
    """Left by break, never begun, or killed: the next call gets through a pool of two without a wait."""
    run(
        sdk,
        """
def half(client, way):
    stream = ask(client, stream=True)
    if way == "never begun":
        return
    for piece in stream:
        if way == "break":
            break
        gevent.sleep(60)

gc.disable()  # only what the client does itself helps
with mock(latency=0.5, reply_tokens=20) as server:
    for way in ("break", "never begun", "kill"):
        client = open_client(server, 2, timeout=(5.0, 20.0))
        for _ in range(2):
            server.reset()
            jobs = [gevent.spawn(half, client, way) for _ in range(2)]
            if way == "kill":
                while server.stats()["streams"] < 2:
                    gevent.sleep(0.02)
                gevent.sleep(0.1)  # now they hold pieces in their hands
                gevent.killall(jobs)
            gevent.joinall(jobs)
            del jobs
        with gevent.Timeout(10, AssertionError(f"{way}: it waited for a connection")):
            ask(client)
""",
    )


@pytest.mark.parametrize("sdk", SDKS)
def test_calls_killed_at_many_moments_leave_the_pool_whole(run, sdk):
    """Greenlets killed while they wait, send or read leave room for as many as before."""
    run(
        sdk,
        """
import random
rng, killed = random.Random(5), 0
with mock(latency=0.02) as server:
    client = open_client(server, 4, timeout=5.0)
    for _ in range(25):
        jobs = [gevent.spawn(ask, client) for _ in range(8)]
        gevent.sleep(rng.random() * 0.05)
        killed += sum(not job.dead for job in jobs)
        gevent.killall(jobs)
    assert killed > 30, killed
    server.reset()
    gevent.joinall([gevent.spawn(ask, client) for _ in range(20)], raise_error=True)
    page = server.stats()
    assert (page["ok"], page["peak_in_flight"]) == (20, 4), page
""",
    )


@pytest.mark.parametrize("sdk", SDKS)
def test_trust_is_as_strict_and_as_shared_as_a_sessions(run, sdk):
    """A stranger is refused, verify=False and the environment's bundle heeded, a bundle loaded once."""
    run(
        sdk,
        """
import ssl, warnings
loads = []
real = ssl.SSLContext.load_verify_locations
class Counting(ssl.SSLContext):
    def load_verify_locations(self, *args, **options):
        loads.append(1)
        return super().load_verify_locations(*args, **options)
ssl.SSLContext = Counting
with mock() as server:
    for _ in range(3):
        ask(open_client(server, 2))
    assert len(loads) == 1, loads
    raises(sdk.APIConnectionError, ask, open_client(server, 2, verify=True))
    ask(open_client(server, 2, verify=False))
    os.environ["REQUESTS_CA_BUNDLE"] = CA
    ask(open_client(server, 2, verify=True))
    ask(open_client(server, 2, cert=TLS))
    assert "CA bundle" in str(raises(OSError, open_client, server, 2, verify="/nowhere.pem"))
    assert "client certificate" in str(raises(OSError, open_client, server, 2, cert="/nowhere.pem"))
    # Whatever cannot work is refused when the client is opened.
    for wrong in ({"timeout": 0}, {"max_wait": -1}):
        raises(ValueError, open_client, server, 2, **wrong)
    raises(ValueError, open_client, server, 0)
    assert "leave it out" in str(raises(TypeError, open_client, server, 2, http_client=None))
""",
    )


@pytest.mark.parametrize("sdk", SDKS)
def test_without_the_sdk_the_error_says_what_to_install(sdk):
    """An SDK is no dependency; its absence has a name."""
    done = run_clean(f"""
import sys
sys.modules[{sdk!r}] = None
from greenkit.http import {sdk}_client, warmup
for call in (lambda: {sdk}_client(2), lambda: warmup({sdk!r})):
    try:
        call()
    except ImportError as error:
        print(error)
""")
    assert done.stdout.count(f"pip install {sdk}") == 2, str(done)


def test_the_first_crowd_of_a_plain_client_forks(run):
    """The reason for working the platform out before: each first call of a plain client asks for it."""
    run(
        "openai",
        """
forks = []
os.register_at_fork(before=lambda: forks.append(1))
with mock() as server:
    del forks[:]
    trusting = sdk.DefaultHttpxClient(verify=False)
    client = sdk.OpenAI(api_key="k", base_url=server.url + "/v1", http_client=trusting)
    gevent.joinall([gevent.spawn(ask, client) for _ in range(20)], raise_error=True)
assert len(forks) > 1, "the SDK no longer races for its platform: warm() may go"
""",
    )


def test_warmup_leaves_nothing_to_load_for_the_first_call():
    """After warmup() neither opening a client nor calling imports any part of the SDK."""
    done = run_clean("""
import gevent.monkey; gevent.monkey.patch_all()
import sys
from greenkit.http import openai_client, session, warmup
took = warmup("openai", "anthropic", "requests")
assert sorted(took) == ["anthropic", "openai", "requests"] and all(seconds > 0 for seconds in took.values())
assert "greenkit.http._requests" in sys.modules or "requests" in sys.modules
from greenkit.testing import MockLLM
with MockLLM() as server:
    client = openai_client(2, api_key="k", base_url=server.url + "/v1")
    before = {name for name in sys.modules if name.startswith("openai.")}
    client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
    late = {name for name in sys.modules if name.startswith("openai.")} - before
    assert not late, sorted(late)
for wrong in ((), ("openia",)):
    try:
        warmup(*wrong)
    except ValueError as error:
        print(error)
""")
    assert (done.returncode, done.stderr) == (0, ""), str(done)
    assert "not openia" in done.stdout


@pytest.mark.parametrize("sdk", SDKS)
def test_a_plain_client_never_gets_back_a_stream_that_was_not_begun(run, sdk):
    """The reason for closing it ourselves: dropped and collected, it keeps its connection all the same."""
    run(
        sdk,
        """
with mock(latency=1.0, reply_tokens=40) as server:
    import httpx2
    base = str(open_client(server, 1).base_url)
    own = sdk.DefaultHttpxClient(verify=False, limits=httpx2.Limits(max_connections=1))
    plain = getattr(sdk, {"openai": "OpenAI", "anthropic": "Anthropic"}[SDK])
    plain = plain(api_key="k", base_url=base, http_client=own, max_retries=0, timeout=1.5)
    ask(plain, stream=True)
    gc.collect()
    raises(sdk.APITimeoutError, ask, plain)
""",
    )


@pytest.mark.parametrize("sdk", SDKS)
def test_a_stream_read_to_its_end_keeps_its_connection(run, sdk):
    """The SDK closes before the last chunk: what is left is read, and the next call shakes no hands."""
    run(
        sdk,
        """
with mock(latency=0.05, reply_tokens=20) as server:
    client = open_client(server, 10)
    def read():
        return sum(1 for _ in ask(client, stream=True))
    for wave in range(4):
        jobs = [gevent.spawn(read) for _ in range(10)]
        gevent.joinall(jobs, raise_error=True)
        assert min(job.value for job in jobs) > 10
    try:
        raise KeyError
    except KeyError:  # what was handled before the call does not count
        read()
    page = server.stats()
    assert page["connections"] <= 10 + 1, page  # and the one that asks for the counters
""",
    )


def test_the_end_of_a_stream_is_waited_for_a_moment_only(run):
    """A server that never ends one costs a twentieth of a second; a kill, a break and an error cost none."""
    run(
        "openai",
        """
from gevent.server import StreamServer
HEAD = b"HTTP/1.1 200 OK\\r\\ncontent-type: text/event-stream\\r\\ntransfer-encoding: chunked\\r\\n\\r\\n"
LINE = b'data: {"id":"1","object":"chat.completion.chunk","created":1,"model":"m","choices":[]}\\n\\n'
opened = []
def serve(sock, _):
    opened.append(sock)
    while sock.recv(65536):
        sock.sendall(HEAD + b"%x\\r\\n%s\\r\\n" % (len(LINE), LINE))
        end = b"data: [DONE]\\n\\n"
        sock.sendall(b"%x\\r\\n%s\\r\\n" % (len(end), end))  # and no last chunk
class Here: url = ""
with_server = StreamServer(("127.0.0.1", 0), serve)
with_server.start()
Here.url = f"http://127.0.0.1:{with_server.server_port}"
client = open_client(Here, 2)

def timed(way):
    begin = time.monotonic()
    stream = ask(client, stream=True)
    for piece in stream:
        if way == "break":
            break
        if way == "error":
            try:
                stream._iterator.throw(ValueError)
            except ValueError:
                break
        if way == "kill":
            try:
                stream._iterator.throw(gevent.GreenletExit)
            except gevent.GreenletExit:
                break
    stream = piece = None
    return time.monotonic() - begin
took = {way: min(timed(way) for _ in range(5)) for way in ("end", "break", "error", "kill")}
assert took.pop("end") >= 0.05, took
assert max(took.values()) < 0.05, took
assert len(opened) == 20, len(opened)  # none could be used again
for _ in range(3):
    assert timed("end") < 5  # and each gave its place back
with_server.stop()
""",
    )
