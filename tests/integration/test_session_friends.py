"""What hooks into requests, urllib3 or http.client sees the calls of a session of ours."""

from __future__ import annotations

import http.client
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests
import urllib3
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from greenkit.http import session


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append((self.path, dict(self.headers)))
        self.send_response(302 if self.path == "/away" else 200)
        if self.path == "/away":
            self.send_header("Location", "/there")
        self.send_header("Set-Cookie", "c=1")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_POST = do_GET  # noqa: N815 - the name http.server looks for

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """A server, and an environment that says nothing of proxies."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answer) as server:
        server.seen, server.daemon_threads = [], True
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_responses_answers_in_place_of_the_server():
    """It patches `HTTPAdapter.send`."""
    responses = pytest.importorskip("responses")
    with responses.RequestsMock() as mock, session(2) as client:
        mock.get("https://api.example.com/a", json={"a": 1}, headers={"x-b": "2"})
        answer = client.get("https://api.example.com/a")
        assert (answer.json(), answer.headers["x-b"]) == ({"a": 1}, "2")
        assert mock.calls[0].request.url == "https://api.example.com/a"


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (requests.Session, "send"),  # OpenTelemetry, Elastic
        (requests.Session, "request"),
        (requests.Session, "prepare_request"),
        (requests.Session, "get_adapter"),  # requests-mock
        (requests.adapters.HTTPAdapter, "send"),  # responses, Datadog
        (urllib3.connectionpool.HTTPConnectionPool, "urlopen"),  # urllib3's instrumentation
        (http.client.HTTPConnection, "putrequest"),  # Sentry
        (http.client.HTTPConnection, "getresponse"),  # Sentry, X-Ray
    ],
)
def test_who_patches_the_way_of_a_call_sees_it(server, monkeypatch, owner, name):
    """Each of the places where agents hook in is still passed, once a call."""
    original, seen = getattr(owner, name), []

    def patched(self, *args, **kwargs):
        seen.append(name)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(owner, name, patched)
    with session(2) as client:
        assert client.post(server.url, json={}).json() == {}
    assert seen == [name]


def test_a_connection_class_of_another_is_used(server, monkeypatch):
    """VCR puts its own in place of urllib3's, in the pools there are."""
    seen = []
    with session(2) as client:
        client.get(server.url)
        [pool] = client.get_adapter(server.url).poolmanager.pools._container.values()

        class Recorded(pool.ConnectionCls):
            def request(self, *args, **kwargs):
                seen.append(args[1])
                return super().request(*args, **kwargs)

        monkeypatch.setattr(pool, "ConnectionCls", Recorded)
        held = client.get(server.url, stream=True)
        client.get(server.url + "/b")
        held.close()
    assert seen == ["/b"]


def test_vcr_records_and_plays_back(server, tmp_path):
    """It puts classes of its own into urllib3; connections opened before and after are not its."""
    vcr = pytest.importorskip("vcr", reason="needs Python 3.11")
    cassette = str(tmp_path / "calls.yaml")
    with session(1) as client:
        client.get(server.url)
        for _ in range(2):
            with vcr.use_cassette(cassette, record_mode="once") as tape:
                assert client.post(server.url + "/taped", json={}).json() == {}
            assert len(tape.requests) == 1
            client.get(server.url)
        assert tape.play_count == 1
    assert [path for path, _ in server.seen] == ["/", "/taped", "/", "/"]


def test_opentelemetry_makes_a_span_of_each_call(server):
    """Its own instrumentation of requests, with the headers that carry a trace on."""
    spans, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    with session(2) as client:
        client.get(server.url)
        instrumentor = RequestsInstrumentor()
        instrumentor.instrument(tracer_provider=provider)
        try:
            client.post(server.url + "/traced", json={})
        finally:
            instrumentor.uninstrument()
        client.get(server.url)
    [span] = spans.get_finished_spans()
    assert span.name == "POST"
    assert ["traceparent" in {name.lower() for name in headers} for _, headers in server.seen] == [
        False,
        True,
        False,
    ]


def test_sentry_makes_a_breadcrumb_and_a_span_of_each_call(server):
    """Its integration of the standard library patches `http.client`, for as long as the process lives."""
    program = f"""
import sentry_sdk
from greenkit.http import session
with session(2) as client:
    client.get({server.url!r})
    sentry_sdk.init("http://public@127.0.0.1:9/1", traces_sample_rate=1.0, transport=lambda event: None)
    with sentry_sdk.start_transaction(name="t") as transaction:
        client.post({server.url + "/seen"!r}, json={{}})
        [span] = [one for one in transaction._span_recorder.spans if one.op == "http.client"]
    [crumb] = sentry_sdk.get_isolation_scope()._breadcrumbs
    print(span.description, crumb["data"]["http.response.status_code"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == f"POST {server.url}/seen 200\n", done.stderr
    assert "sentry-trace" in {name.lower() for name in server.seen[1][1]}


def test_a_netrc_file_names_who_calls(server, monkeypatch, tmp_path):
    """As requests reads it; a call that names somebody itself wins."""
    file = tmp_path / "netrc"
    file.write_text("machine 127.0.0.1 login me password secret\n")
    file.chmod(0o600)
    monkeypatch.setenv("NETRC", str(file))
    with session(2) as client:
        client.get(server.url)
        client.get(server.url, auth=("you", "x"))
    assert [headers["Authorization"] for _, headers in server.seen] == [
        "Basic bWU6c2VjcmV0",
        "Basic eW91Ong=",
    ]


def test_hooks_redirects_and_cookies_are_requests_own(server):
    """Of the session and of the call."""
    with session(2) as client:
        seen = []
        client.hooks["response"].append(lambda answer, **_: seen.append(answer.status_code))
        answer = client.get(server.url + "/away")
        assert [one.status_code for one in answer.history] == [302]
        assert sorted(seen) == [200, 302]
        client.get(server.url, hooks={"response": lambda answer, **_: seen.append("call")})
        assert seen[2:] == ["call"]
        assert client.cookies.get("c") == "1"
        client.get(server.url + "/b")
        assert server.seen[-1][1]["Cookie"] == "c=1"


def test_a_proxy_of_the_environment_is_used(server, monkeypatch):
    """It is asked for the whole address."""
    monkeypatch.setenv("HTTP_PROXY", server.url)
    monkeypatch.setenv("NO_PROXY", "quiet.example")
    with session(2) as client:
        client.get("http://somewhere.example/a")
        assert server.seen[-1][0] == "http://somewhere.example/a"
