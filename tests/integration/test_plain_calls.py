"""Plain calls of a session against those of plain requests: the same answers, and the same errors."""

from __future__ import annotations

import gzip
import http.client
import logging
import pickle
import re
import socket
import threading
import time
import zlib

import pytest
import requests
import urllib3

from greenkit.http import _requests, session


class Server:
    """Answer each connection's requests with the pieces of a script; b"" ends the connection."""

    def __init__(self):
        self.script, self.seen, self.connections = [b""], [], 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock):
        with sock:
            while (request := self._request(sock)) is not None:
                self.seen.append(request)
                for piece in self.script:
                    if not piece:
                        return
                    if isinstance(piece, float):
                        time.sleep(piece)
                    else:
                        sock.sendall(piece)

    def _request(self, sock):
        data = b""
        try:
            while b"\r\n\r\n" not in data:
                piece = sock.recv(65536)
                if not piece:
                    return None
                data += piece
            size = re.search(rb"(?i)\r\ncontent-length: (\d+)", data)
            end = data.index(b"\r\n\r\n") + 4 + (int(size[1]) if size else 0)
            while len(data) < end:
                data += sock.recv(65536)
        except OSError:
            return None
        return data

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A server, and an environment without proxies, bundles or a netrc file."""
    for name in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name.upper()}_PROXY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    server = Server()
    yield server
    server.close()


@pytest.fixture
def short(monkeypatch):
    """The calls that went the short way."""
    original, calls = _requests.fetch, []

    def counted(adapter, pool, order):
        calls.append(order.target)
        return original(adapter, pool, order)

    monkeypatch.setattr(_requests, "fetch", counted)
    return calls


def shown(response):
    """Return what a user may look at."""
    raw = response.raw
    return {
        "answer": (response.status_code, response.reason, response.url, response.encoding),
        "headers": list(response.headers.items()),
        "content": response.content,
        "lines": list(response.iter_lines()),
        "cookies": sorted(response.cookies.items()),
        "history": [one.status_code for one in response.history],
        "next": response.next and response.next.url,
        "raw": (raw.status, raw.reason, raw.version, list(raw.headers.items()), raw.read(), raw.closed),
        "messages": raw._original_response.msg.get_all("Set-Cookie"),
        "request": (response.request.method, list(response.request.headers.items()), response.request.body),
        "unpickled": pickle.loads(pickle.dumps(response)).content,
    }


def outcome(client, method, url, **options):
    """Return what came of a call: what it shows, or its errors without addresses of objects."""
    try:
        response = client.request(method, url, **options)
    except requests.exceptions.RequestException as error:
        text = re.sub(r"0x[0-9a-f]+|line \d+", "", str(error))
        return type(error), re.sub(r"_(Plain|TLS)", "HTTP", text).replace("HTTPPool", "HTTPConnectionPool")
    assert 0 <= response.elapsed.total_seconds() < 60
    return shown(response)


def both(server, method="GET", path="/a?b=c", **options):
    """Return (outcome of ours, of requests'), on new sessions; the bytes sent are the same."""
    found = []
    for client in (session(2), requests.Session()):
        with client:
            server.seen.clear()
            found.append((outcome(client, method, server.url + path, **options), list(server.seen)))
    assert found[0][1] == found[1][1]
    return found[0][0], found[1][0]


def ok(content=b"{}", more=b""):
    return b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (more, len(content), content)


JSON = b"Content-Type: application/json; charset=utf-8\r\n"
SQUEEZED = gzip.compress(b"x" * 1000)
ANSWERS = {
    "plain": [ok(more=JSON)],
    "in pieces": [b"HTTP/1.1 200 O", 0.02, b"K\r\nContent-Le", 0.02, b"ngth: 4\r\n\r\nab", 0.02, b"cd"],
    "no reason": [b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n"],
    "latin-1": [ok(more=b"X-A: \xe9\r\n")],
    "headers twice": [ok(more=b"X-A: 1\r\nx-a: 2\r\nVary: a\r\n")],
    "cookies": [ok(more=b"Set-Cookie: a=1; Path=/\r\nSet-Cookie: b=2\r\n")],
    "folded header": [ok(more=b"X-A: 1\r\n  2\r\n")],
    "odd header name": [ok(more=b"X(A): 1\r\n")],
    "no blank lines of two bytes": [b"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi"],
    "chunked": [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n",
        b"2\r\nde\r\n0\r\nT: 1\r\n\r\n",
    ],
    "until the end": [b"HTTP/1.1 200 OK\r\n\r\nabc", 0.02, b"def", b""],
    "HTTP/1.0": [b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", b""],
    "Connection: close": [ok(more=b"Connection: close\r\n"), b""],
    "204": [b"HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n"],
    "304": [b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"],
    "100 before": [b"HTTP/1.1 100 Continue\r\n\r\n" + ok()],
    "gzip": [ok(SQUEEZED, b"Content-Encoding: gzip\r\n")],
    "two times gzip": [ok(SQUEEZED * 2, b"Content-Encoding: gzip\r\n")],
    "gzip over gzip": [ok(gzip.compress(SQUEEZED), b"Content-Encoding: gzip, gzip\r\n")],
    "deflate": [ok(zlib.compress(b"x" * 1000), b"Content-Encoding: deflate\r\n")],
    "a coding nobody knows": [ok(b"abc", b"Content-Encoding: strange\r\n")],
    "an error page": [b"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\nno"],
    "half a head": [b"HTTP/1.1 200 OK\r\nX-A: 1\r\nContent-", b""],
    "two lengths that agree": [ok(more=b"Content-Length: 2\r\n")],
}
BROKEN = {
    "no answer": [b""],
    "no HTTP": [b"hello\r\n\r\n", b""],
    "a status that is none": [b"HTTP/1.1 2x0 OK\r\n\r\n", b""],
    "a short body": [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab", b""],
    "a short chunk": [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nab", b""],
    "no size of a chunk": [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nab\r\n", b""],
    "no gzip": [ok(b"abc", b"Content-Encoding: gzip\r\n")],
    "late head": [2.0],
    "late body": [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab", 2.0, b""],
    "late chunk": [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nab", 2.0, b""],
}


@pytest.mark.parametrize("script", ANSWERS.values(), ids=ANSWERS)
def test_an_answer_is_what_requests_makes_of_it(server, short, script):
    """Status, headers in their order, content, cookies, `raw`, and the bytes that were sent."""
    server.script = script
    ours, theirs = both(server, "POST", json={"a": ["ü"]})
    assert ours == theirs
    assert len(short) == 1


@pytest.mark.parametrize("script", BROKEN.values(), ids=BROKEN)
def test_an_error_is_the_one_requests_raises(server, short, script):
    """Its class; where the answer is no HTTP at all, or ends early, its words may differ."""
    server.script = script
    ours, theirs = both(server, "POST", json={}, timeout=(5, 0.3))
    assert ours[0] is theirs[0], (ours, theirs)
    assert len(short) == 1


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"json": {"a": 1}},
        {"data": b"bytes"},
        {"data": b"x" * 300_000},
        {"auth": ("me", "secret")},
        {"headers": {"X-A": "1", "User-Agent": "mine", "Accept": None}},
        {"headers": {"Authorization": "Bearer x", "Content-Type": "text/plain"}, "data": b"x"},
        {"allow_redirects": False, "timeout": 3},
        {"timeout": (3, None)},
        {"stream": False, "cookies": None, "params": None},
    ],
)
@pytest.mark.parametrize("method", ["GET", "post", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"])
def test_the_same_bytes_are_sent(server, method, options):
    """`both()` compares them."""
    server.script = [b"HTTP/1.1 204 No Content\r\n\r\n"]
    ours, theirs = both(server, method, "/p%7eq/a b?q=ü#part", **options)
    assert ours == theirs


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("follow", [True, False])
def test_redirects_are_requests_own(server, short, status, follow):
    """Followed or noted, with their cookies; the first answer came the short way."""
    server.script = [
        b"HTTP/1.1 %d Gone\r\nLocation: /b\r\nContent-Length: 0\r\nSet-Cookie: a=1\r\n\r\n" % status
    ]
    with session(2) as client, requests.Session() as plain:
        client.max_redirects = plain.max_redirects = 2
        found = [outcome(one, "POST", server.url, json={}, allow_redirects=follow) for one in (client, plain)]
        assert found[0] == found[1]
        assert client.cookies.items() == plain.cookies.items() == [("a", "1")]
    assert short == ["/"]


def test_hints_before_an_answer_are_passed_over(server, short):
    """Any of them but the switch to another protocol; http.client knows 100 alone."""
    server.script = [
        b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n",
        0.02,
        ok(),
    ]
    with session(1) as client:
        assert [client.get(server.url).json() for _ in range(2)] == [{}, {}]
    assert (server.connections, len(short)) == (1, 2)


def test_connections_are_shared_with_requests_own_way(server, short):
    """One connection serves both, and is put back by both."""
    server.script = [ok()]
    with session(1) as client:
        for _ in range(3):
            assert client.get(server.url).json() == {}
            assert client.get(server.url, params={"a": 1}).json() == {}
            with client.get(server.url, stream=True) as streamed:
                assert streamed.raw.read() == b"{}"
    assert (server.connections, len(short)) == (1, 3)


@pytest.mark.parametrize("ending", ["Connection: close", "HTTP/1.0", "more than it said"])
def test_a_connection_that_is_over_is_not_used_again(server, short, ending):
    """Whatever says so."""
    server.script = {
        "Connection: close": [ok(more=b"Connection: close\r\n")],
        "HTTP/1.0": [b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}"],
        "more than it said": [ok() + b"HTTP/1.1 200 OK\r\n\r\n"],
    }[ending]
    with session(1) as client:
        for _ in range(3):
            assert client.get(server.url).json() == {}
    assert (server.connections, len(short)) == (3, 3)


@pytest.mark.parametrize(("method", "repeated"), [("GET", True), ("PUT", True), ("POST", False)])
def test_a_connection_that_ends_as_it_is_used_again(server, method, repeated):
    """A call that may be repeated is sent once more, over a new one; another is not."""
    server.script = [ok()]
    with session(1) as client:
        client.get(server.url)
        server.script = [b""]  # the next request is taken, and not answered
        taken, original = len(server.seen), server._request

        def once(sock):
            request = original(sock)
            if len(server.seen) > taken:
                server.script = [ok()]
            return request

        server._request = once
        if repeated:
            assert client.request(method, server.url).json() == {}
        else:
            with pytest.raises(requests.exceptions.ConnectionError):
                client.request(method, server.url)
            assert len(server.seen) == taken + 1
        server.script = [ok()]
        assert client.get(server.url).json() == {}


def test_what_cannot_be_reached_is_said_as_requests_says_it(server):
    """Nobody listens; and addresses that are none."""
    with socket.create_server(("127.0.0.1", 0)) as gone:
        url = f"http://127.0.0.1:{gone.getsockname()[1]}/"
    with session(2) as client, requests.Session() as plain:
        for bad in (url, "http://nowhere.invalid/", "http://", "nothing", "ftp://a/", "http://*.a/"):
            ours, theirs = (outcome(one, "GET", bad) for one in (client, plain))
            assert ours[0] is theirs[0], (bad, ours, theirs)


def test_each_of_these_goes_requests_own_way(server, short, monkeypatch):
    """What a plain call has no use for."""
    server.script = [ok()]
    with session(2) as client:
        for options in (
            {"params": {"a": 1}},
            {"stream": True},
            {"auth": requests.auth.HTTPDigestAuth("a", "b")},
            {"auth": lambda call: call},
            {"files": {"f": b"x"}},
            {"cookies": {"a": "b"}},
            {"data": {"a": "b"}},
            {"data": iter([b"x"])},
            {"hooks": {"response": lambda answer, **_: None}},
            {"proxies": {"http": server.url}},
            {"headers": {"Host": "other.example"}},
            {"headers": {"Connection": "close"}},
            {"headers": {"Expect": "100-continue"}},
            {"headers": {"User-Agent": None}},
            {"headers": {"X-A": b"bytes"}},
            {"headers": {"X-A": "é"}},
            {"timeout": urllib3.Timeout(5)},
        ):
            assert client.get(server.url, **options).status_code == 200, options
        client.hooks["response"].append(lambda answer, **_: None)
        client.get(server.url)
        client.hooks["response"].clear()
        monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)
        client.get(server.url)
        monkeypatch.undo()
        logging.getLogger("urllib3").setLevel(logging.DEBUG)
        try:
            client.get(server.url)
        finally:
            logging.getLogger("urllib3").setLevel(logging.NOTSET)
        client.get_adapter(server.url).max_retries = urllib3.Retry(2)
        client.get(server.url)
        client.mount("http://", requests.adapters.HTTPAdapter())
        client.get(server.url)
    assert short == []


def test_who_overrides_a_method_is_asked(server, short):
    """On a session, on an adapter, in a subclass of either."""
    server.script, seen = [ok()], []

    class Mine(type(session(1))):
        def send(self, request, **options):
            seen.append("subclass")
            return super().send(request, **options)

    with session(2) as client:
        adapter, send = client.get_adapter(server.url), client.send

        def on_session(request, **options):
            seen.append("session")
            return send(request, **options)

        client.send = on_session
        client.get(server.url)
        del client.send
        theirs = adapter.send

        def on_adapter(*args, **options):
            seen.append("adapter")
            return theirs(*args, **options)

        adapter.send = on_adapter
        client.get(server.url)
        del adapter.send
        assert (seen, short) == (["session", "adapter"], [])
        client.get(server.url)
        assert short == ["/"]
        client.__class__ = Mine
        client.get(server.url)
    assert (seen[2:], short) == (["subclass"], ["/"])
