"""The transport for httpx and httpx2, in patched processes, against servers that misbehave."""

from __future__ import annotations

import pytest

from greenkit.testing import run_clean

FAMILIES = ["httpx", "httpx2"]

PRELUDE = """
import gevent.monkey; gevent.monkey.patch_all()
import gc, json, os, socket, sys, threading, time, gevent
from gevent.server import StreamServer
import {family} as httpx
from greenkit.http import HTTPTransport

class Server:
    # Answers each request with what `reply` makes of its head and body: bytes, or pieces with pauses between.
    def __init__(self, reply):
        self.reply, self.connections, self.requests = reply, 0, []
        self.server = StreamServer(("127.0.0.1", 0), self.serve)
        self.server.start()
        self.url = f"http://127.0.0.1:{{self.server.server_port}}"
    def serve(self, sock, _):
        self.connections += 1
        try:
            self.talk(sock)
        except OSError:
            pass  # who called is gone
    def talk(self, sock):
        stream = sock.makefile("rb")
        while True:
            head = b""
            while not head.endswith(b"\\r\\n\\r\\n"):
                line = stream.readline()
                if not line: return
                head += line
            lower, body = head.lower(), b""
            if b"content-length:" in lower:
                body = stream.read(int(lower.split(b"content-length:")[1].split()[0]))
            elif b"transfer-encoding: chunked" in lower:
                while size := int(stream.readline(), 16):
                    body += stream.read(size); stream.readline()
                stream.readline()
            self.requests.append((head, body))
            answer = self.reply(head, body)
            for piece in [answer] if isinstance(answer, bytes) else answer:
                if piece is None:
                    sock.close(); return
                if isinstance(piece, float): gevent.sleep(piece)
                else: sock.sendall(piece)

def ok(content=b"{{}}", more=b""):
    return b"HTTP/1.1 200 OK\\r\\ncontent-type: application/json\\r\\ncontent-length: %d\\r\\n%b\\r\\n%b" % (
        len(content), more, content)

def raises(kind, do, *args, **options):
    try:
        found = do(*args, **options)
    except kind as error:
        return error
    raise AssertionError(f"{{found}} instead of {{kind}}")
"""


def run(family, program, **env):
    pytest.importorskip(family)
    done = run_clean(PRELUDE.format(family=family) + program, env=env)
    assert (done.returncode, done.stderr) == (0, ""), str(done)


@pytest.mark.parametrize("family", FAMILIES)
def test_connections_are_kept_and_never_more_than_allowed(family):
    """Of a hundred calls by fifty greenlets twenty run at once; who waits too long is told by PoolTimeout."""
    run(
        family,
        """
server = Server(lambda head, body: [0.02, ok()])
transport = HTTPTransport(20)
client = httpx.Client(transport=transport, timeout=10)
def twice():
    client.get(server.url), client.post(server.url, json={"a": 1})
jobs = [gevent.spawn(twice) for _ in range(50)]
gevent.joinall(jobs, raise_error=True)
assert server.connections == 20 and len(server.requests) == 100, server.connections
assert repr(transport).startswith("<HTTPTransport of 20, to 127.0.0.1"), transport
slow = httpx.Client(transport=HTTPTransport(1), timeout=httpx.Timeout(10, pool=0.05))
server.reply = lambda head, body: [0.5, ok()]
busy = gevent.spawn(slow.get, server.url); gevent.sleep(0.05)
error = raises(httpx.PoolTimeout, slow.get, server.url)
assert "all 1 connections" in str(error) and error.request.method == "GET"
assert busy.get().status_code == 200
old = httpx.Client(transport=HTTPTransport(2, keep_idle=0.0))
server.connections, server.reply = 0, lambda head, body: ok()
old.get(server.url), old.get(server.url)
assert server.connections == 2, "an idle connection that is too old is not used"
""",
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_of_all_kinds_are_those_of_the_familys_own_transport(family):
    """Folded headers, early hints, HTTP/1.0, no content, trailers, until the close: the same answer."""
    run(
        family,
        """
import gzip
packed = gzip.compress(b"hello" * 100)
OK, CHUNKED = b"HTTP/1.1 200 OK\\r\\n", b"transfer-encoding: chunked\\r\\n"
ANSWERS = [
    ok(b"[1]"),
    b"HTTP/1.1 200 OK\\r\\nx-a: 1\\r\\n folded\\r\\ncontent-length: 2\\r\\n\\r\\nab",
    b"HTTP/1.1 103 Early Hints\\r\\nlink: x\\r\\n\\r\\n" + ok(b"hinted"),
    [b"HTTP/1.1 100 Continue\\r\\n\\r\\n", 0.02, ok(b"continued")],
    [b"HTTP/1.0 200 OK\\r\\n\\r\\nold", None],
    [b"HTTP/1.1 200 OK\\r\\n\\r\\nuntil ", 0.02, b"the close", None],
    b"HTTP/1.1 204 No Content\\r\\n\\r\\n",
    b"HTTP/1.1 304 Not Modified\\r\\ncontent-length: 7\\r\\n\\r\\n",
    OK + CHUNKED + b"\\r\\n3\\r\\nabc\\r\\n2;x=y\\r\\nde\\r\\n0\\r\\nx-t: 1\\r\\n\\r\\n",
    [OK + CHUNKED[:9], 0.02, CHUNKED[9:] + b"\\r\\n3\\r", 0.02, b"\\nabc\\r\\n0\\r\\n\\r\\n"],
    OK + b"content-length: 3\\r\\n" + CHUNKED + b"\\r\\n1\\r\\nx\\r\\n0\\r\\n\\r\\n",
    OK + b"content-encoding: gzip\\r\\ncontent-length: %d\\r\\n\\r\\n%b" % (len(packed), packed),
    b"HTTP/1.1 404 Nothing Here\\r\\nset-cookie: a=1\\r\\nset-cookie: b=2\\r\\ncontent-length: 0\\r\\n\\r\\n",
    b"HTTP/1.1 302 Found\\r\\nlocation: /there\\r\\ncontent-length: 0\\r\\n\\r\\n",
    b"HTTP/1.1 200 OK\\ncontent-length: 2\\n\\nab",
    [b"", None],
    [b"HTTP/1.1 200 OK\\r\\ncontent-len", None],
    [b"HTTP/1.1 200 OK\\r\\ncontent-length: 5\\r\\n\\r\\nab", None],
    [b"HTTP/1.1 200 OK\\r\\ntransfer-encoding: chunked\\r\\n\\r\\n5\\r\\nab", None],
    b"HTTP/1.1 200 OK\\r\\ntransfer-encoding: chunked\\r\\n\\r\\nzz\\r\\nab",
    b"this is no HTTP\\r\\n\\r\\n",
    b"HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\ncontent-length: 3\\r\\n\\r\\nabc",
    [b"HTTP/1.1 200 OK\\r\\n", 2.0],
]
def ask(client, method):
    try:
        found = client.request(method, server.url)
    except httpx.TransportError as error:
        return type(error)
    fields = found.status_code, found.reason_phrase, found.http_version, list(found.headers.multi_items())
    return (*fields, found.content, dict(found.cookies))
for answer in ANSWERS:
    server = Server(lambda head, body: answer)
    for method in ("GET", "HEAD") if isinstance(answer, bytes) and b"content-length" in answer else ("GET",):
        if method == "HEAD":
            head = answer.split(b"\\r\\n\\r\\n")[0] + b"\\r\\n\\r\\n"
            server.reply = lambda *_: head
        mine, theirs = (
            ask(httpx.Client(transport=one, timeout=1.0), method)
            for one in (HTTPTransport(2), httpx.HTTPTransport())
        )
        assert mine == theirs, (answer, method, mine, theirs)
""",
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_errors_are_the_familys_own(family):
    """Time-outs, refusals, broken and impossible requests; a connection that was ended is not used again."""
    run(
        family,
        """
server = Server(lambda head, body: [1.0, ok()])
client = httpx.Client(transport=HTTPTransport(2), timeout=httpx.Timeout(5, read=0.1))
error = raises(httpx.ReadTimeout, client.get, server.url)
assert error.request.url.host == "127.0.0.1"
raises(httpx.ConnectError, client.get, "http://127.0.0.1:1/")
raises(httpx.ConnectError, client.get, "http://nowhere.invalid/")
raises(httpx.UnsupportedProtocol, client.get, "ftp://127.0.0.1/")
raises(httpx.LocalProtocolError, client.get, server.url, headers=[(b"x-a", b"1\\r\\nx-b: 2")])
seven = {"content-length": "7"}
raises(httpx.LocalProtocolError, client.post, server.url, content=iter([b"abc"]), headers=seven)
class Broken(Exception): pass
def body():
    yield b"abc"
    raise Broken
raises(Broken, client.post, server.url, content=body())
with socket.socket() as deaf:  # accepts nobody
    deaf.bind(("127.0.0.1", 0)); deaf.listen(0)
    for _ in range(3):
        filler = socket.socket(); filler.setblocking(False); filler.connect_ex(deaf.getsockname())
    quick = httpx.Client(transport=HTTPTransport(1), timeout=httpx.Timeout(5, connect=0.2))
    raises(httpx.ConnectTimeout, quick.get, "http://%s:%d/" % deaf.getsockname())
client = httpx.Client(transport=HTTPTransport(2), timeout=5)
server.reply = lambda head, body: [ok(more=b"keep-alive: x\\r\\n"), 0.05, None]
client.get(server.url); gevent.sleep(0.15)
assert client.get(server.url).status_code == 200, "the server closed it while it was idle"
gevent.sleep(0.15)
for _ in range(6):
    server.reply = lambda head, body: ok()
    assert client.get(server.url).status_code == 200  # every slot is there
early = Server(lambda head, body: b"")
def refuse(sock, _):
    sock.recv(1000)
    sock.sendall(b"HTTP/1.1 413 Too Large\\r\\nconnection: close\\r\\ncontent-length: 0\\r\\n\\r\\n")
    while sock.recv(65536): pass
early.server.set_handle(refuse)
found = client.post(early.url, content=(b"x" * 100_000 for _ in range(5)))
assert found.status_code == 413, found
""",
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_bodies_of_all_kinds_are_sent(family):
    """Bytes, JSON, forms, files, iterators, nothing at all, and megabytes."""
    run(
        family,
        """
import io
server = Server(lambda head, body: ok())
client = httpx.Client(transport=HTTPTransport(2), timeout=5)
client.post(server.url + "/a?b=c", json={"a": "\\u20ac"})
head, body = server.requests[-1]
assert head.startswith(b"POST /a?b=c HTTP/1.1\\r\\nHost: 127.0.0.1:"), head
assert json.loads(body) == {"a": "\\u20ac"}
big = os.urandom(3_000_000)
slices = (big[n:n + 70_000] for n in range(0, len(big), 70_000))
for content in (b"abc", big, (piece for piece in (b"ab", b"", b"c")), slices):
    client.put(server.url, content=content)
assert [body for _, body in server.requests[1:]] == [b"abc", big, b"abc", big]
client.post(server.url, data={"a": "1"}, files={"f": io.BytesIO(b"file")})
assert b"multipart/form-data" in server.requests[-1][0] and b"file" in server.requests[-1][1]
client.post(server.url); client.delete(server.url)
assert [body for _, body in server.requests[-2:]] == [b"", b""]
assert server.connections == 1
""",
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_streams_give_their_connection_back(family):
    """Read, closed a little before the end, dropped, or killed; never more than two are open."""
    run(
        family,
        """
CHUNK = b"400\\r\\n" + b"x" * 1024 + b"\\r\\n"
def pieces(head, body):
    yield b"HTTP/1.1 200 OK\\r\\ntransfer-encoding: chunked\\r\\n\\r\\n"
    for _ in range(5):
        yield 0.05
        yield CHUNK
    yield b"0\\r\\n\\r\\n"
server = Server(pieces)
transport = HTTPTransport(2)
client = httpx.Client(transport=transport, timeout=httpx.Timeout(5, pool=2))
def read(way):
    with client.stream("GET", server.url) as found:
        read = 0
        for piece in found.iter_raw():
            read += len(piece)
            if way == "the end is near" and read == 5 * 1024:
                break
            if way == "kill":
                gevent.sleep(10)
        return read
for way, kept in (("all", True), ("the end is near", True), ("kill", False)):
    server.connections = 0
    for _ in range(3):
        jobs = [gevent.spawn(read, way) for _ in range(2)]
        if way == "kill":
            gevent.sleep(0.05); gevent.killall(jobs)
        gevent.joinall(jobs)
        for job in jobs:
            assert job.value == 5 * 1024 or way == "kill", job.exception
    assert (server.connections <= 2) is kept, (way, server.connections)
for _ in range(8):  # dropped unread: the two places come back
    found = client.send(client.build_request("GET", server.url), stream=True)
    found = None
    gc.collect()
assert read("all") == 5 * 1024
""",
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_call_killed_at_any_switch_gives_back_what_it_had(family):
    """Three callers of two connections, killed wherever they wait."""
    run(
        family,
        """
from greenkit.testing import kill_at_every_switch
HEAD = b"HTTP/1.1 200 OK\\r\\ncontent-length: 4\\r\\n\\r\\n"
server = Server(lambda head, body: [0.002, HEAD, 0.002, b"ab", 0.002, b"cd"])
class Scene:
    def __init__(self):
        self.client = httpx.Client(transport=HTTPTransport(2), timeout=10)
        self.callers = []
    def crowd(self):
        self.callers = [gevent.spawn(self.client.get, server.url) for _ in range(3)]
        gevent.joinall(self.callers)
    def check(self):
        gevent.joinall(self.callers, timeout=20)
        failed = [caller.exception for caller in self.callers if caller.exception is not None]
        assert not failed, failed
        before = server.connections
        with gevent.Timeout(20):
            again = [gevent.spawn(self.client.get, server.url) for _ in range(4)]
            gevent.joinall(again, raise_error=True)
        assert {job.value.content for job in again} == {b"abcd"}
        assert server.connections - before <= 2
        self.client.close()
report = kill_at_every_switch(
    Scene.crowd, Scene.check, fresh=Scene, whom=lambda who, scene: "caller" if who in scene.callers else None
)
assert dict(report.victims)["caller"] > 10, report
""",
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_native_threads_and_forked_processes_have_connections_of_their_own(family):
    """A connection belongs to the hub it was opened in, and to the process."""
    run(
        family,
        """
server = Server(lambda head, body: ok(str(server.connections).encode()))
client = httpx.Client(transport=HTTPTransport(4), timeout=5)
assert client.get(server.url).text == "1"
start = gevent.monkey.get_original("_thread", "start_new_thread")
found = []
def in_a_thread():
    found.append([client.get(server.url).status_code for _ in range(3)])
for _ in range(3):
    del found[:]
    for _ in range(3):
        start(in_a_thread, ())
    with gevent.Timeout(20):
        while len(found) < 3:
            gevent.sleep(0.01)
    assert found == [[200] * 3] * 3
assert client.get(server.url).status_code == 200
gevent.get_hub().loop.install_sigchld()  # else gevent misses a first child that ends at once
pid = os.fork()
if not pid:
    server.server.close()
    code = 1
    try:
        code = 0 if client.get(server.url).status_code == 200 else 2
    finally:
        os._exit(code)
assert os.waitpid(pid, 0)[1] == 0
before = server.connections
assert client.get(server.url).status_code == 200
assert server.connections == before, "the parent's connection is still its own"
""",
    )


def test_what_is_unusual_has_the_familys_own_transport():
    """Tracing, Expect, a proxy of the environment, HTTP/2: nothing of ours stands in between."""
    run(
        "httpx2",
        """
from greenkit.http import openai_client
import openai
server = Server(lambda head, body: ok())
transport = HTTPTransport(2)
client = httpx.Client(transport=transport, timeout=5)
seen = []
client.get(server.url, extensions={"trace": lambda name, info: seen.append(name)})
assert any("connection" in name for name in seen), seen
client.post(server.url, content=b"abc", headers={"expect": "100-continue"})
assert server.requests[-1][1] == b"abc"
proxied = Server(lambda head, body: ok(b'{"object": "list", "data": []}'))
os.environ["HTTP_PROXY"] = proxied.url
sdk = openai_client(2, api_key="k", base_url="http://somewhere.invalid/v1")
assert sdk.models.list().data == []
assert proxied.requests[0][0].startswith(b"GET http://somewhere.invalid/v1/models HTTP/1.1"), proxied.requests
""",
    )


def test_every_client_of_the_sdks_can_stand_on_it():
    """OpenAI, Azure and Bedrock of one SDK, Anthropic, Bedrock and Vertex of the other."""
    run(
        "httpx2",
        """
import anthropic, openai
CHAT = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [
    {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}]}
MESSAGE = {"id": "1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn",
    "content": [{"type": "text", "text": "hi"}], "usage": {"input_tokens": 1, "output_tokens": 1}}
server = Server(lambda head, body: ok(json.dumps(CHAT if b"/chat/" in head else MESSAGE).encode()))
def http(): return httpx.Client(transport=HTTPTransport(2), timeout=5)
ask = dict(model="m", max_tokens=5, messages=[dict(role="user", content="x")])
for client in (
    openai.OpenAI(api_key="k", base_url=server.url + "/v1", http_client=http()),
    openai.AzureOpenAI(api_key="k", api_version="1", azure_endpoint=server.url, http_client=http()),
):
    assert client.chat.completions.create(**ask).choices[0].message.content == "hi"
for client in (
    anthropic.Anthropic(api_key="k", base_url=server.url, http_client=http()),
    anthropic.AnthropicBedrock(
        aws_access_key="a", aws_secret_key="b", aws_region="r", base_url=server.url, http_client=http()
    ),
    anthropic.AnthropicVertex(
        region="r", project_id="p", access_token="t", base_url=server.url, http_client=http()
    ),
):
    assert client.messages.create(**ask).content[0].text == "hi"
assert server.connections == 5
""",
    )
