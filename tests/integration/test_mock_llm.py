"""The mock LLM server as a process, spoken to by real clients."""

from __future__ import annotations

import concurrent.futures
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from http.client import HTTPConnection, RemoteDisconnected
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from greenkit.errors import ServerStartError
from greenkit.testing import MockLLM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from openai import OpenAI

WITHIN = 10.0


def call(
    server: MockLLM, body: object = None, *, path: str = "/v1/chat/completions"
) -> tuple[int, dict[str, str], Any]:
    """Make one call on a connection of its own: status, headers in lower case, JSON."""
    ask = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}
    data = body if isinstance(body, bytes) else json.dumps(ask | dict(body or {})).encode()  # type: ignore[call-overload]
    with closing(HTTPConnection(server.url.removeprefix("http://"), timeout=WITHIN)) as connection:
        connection.request("POST", path, data)
        answer = connection.getresponse()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, headers, json.loads(answer.read())


def dial(server: MockLLM) -> socket.socket:
    """Open a bare connection."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=WITHIN)


def until(true: Callable[[], bool]) -> None:
    """Wait for another process to do what it was told, or fail."""
    deadline = time.monotonic() + WITHIN
    while not true():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    """Tell whether no process has this id, not even an unreaped one that still runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.fixture
def openai_sdk() -> Iterator[Callable[[MockLLM], OpenAI]]:
    """Give clients of the real SDK that never retry, closed afterwards."""
    openai = pytest.importorskip("openai")
    clients: list[OpenAI] = []

    def connect(server: MockLLM) -> OpenAI:
        clients.append(openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


def test_the_openai_sdk_chats_streams_and_lists_models(openai_sdk: Callable[[MockLLM], OpenAI]) -> None:
    """The real SDK reads whole answers, streams with usage, and the list of models."""
    with MockLLM(reply_tokens=5) as server:
        client = openai_sdk(server)
        reply = client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "one two three"}]
        )
        assert reply.choices[0].message.content == "You said: one two three"
        assert reply.usage is not None
        assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (
            4,
            5,
            9,
        )

        chunks = list(
            client.chat.completions.create(
                model="m",
                messages=[{"role": "user", "content": "one two three"}],
                stream=True,
                stream_options={"include_usage": True},
            )
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == "You said: one two three"
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.total_tokens == 9
        assert "mock-small" in [model.id for model in client.models.list()]
        assert server.stats()["streams"] == 1


def test_the_openai_sdk_sees_a_rate_limit_error(openai_sdk: Callable[[MockLLM], OpenAI]) -> None:
    """A refusal is the SDK's RateLimitError with every header a limiter can learn from."""
    import openai  # the fixture has skipped when it is absent

    with MockLLM(requests="1/min", tokens="60_000/min") as server:
        client = openai_sdk(server)
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
    headers = caught.value.response.headers
    assert 50 < int(headers["retry-after"]) <= 60
    assert 50_000 < int(headers["retry-after-ms"]) <= 60_000
    assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-remaining-requests"]) == ("1", "0")
    assert headers["x-ratelimit-limit-tokens"] == "60000"
    assert caught.value.code == "rate_limit_exceeded"


def test_the_quota_holds_under_a_crowd_and_the_page_adds_up() -> None:
    """Of 200 calls at once as many pass as the burst and the rate allow, and every call is counted once."""
    with (
        MockLLM(requests="1/s burst 20", latency=0.02) as server,
        concurrent.futures.ThreadPoolExecutor(20) as crowd,
    ):
        begin = time.monotonic()
        statuses = list(crowd.map(lambda _: call(server)[0], range(200)))
        most = 20 + (time.monotonic() - begin) * 1.0
        page = server.stats()
    assert 20 <= statuses.count(200) <= most
    assert statuses.count(429) == 200 - statuses.count(200) > 0
    assert (page["calls"], page["ok"], page["rejected"]) == (200, statuses.count(200), statuses.count(429))
    assert page["rejected_by"] == {"requests": page["rejected"], "tokens": 0}
    assert 20 <= page["worst_second"] <= most
    assert 1 < page["peak_in_flight"] <= 20
    assert page["in_flight"] == 0


def test_waiting_as_told_is_enough() -> None:
    """After `retry-after-ms` the same call passes."""
    with MockLLM(requests="10/s burst 1") as server:
        for _ in range(5):
            assert call(server)[0] == 200
            status, headers, _ = call(server)
            assert status == 429
            time.sleep(int(headers["retry-after-ms"]) / 1000)


def test_tokens_are_charged_and_reserved() -> None:
    """One mode charges what the answer used, the other all of max_tokens; too large never passes."""
    with MockLLM(tokens="1/min burst 100", reply_tokens=3) as server:
        assert call(server, {"max_tokens": 99})[1]["x-ratelimit-remaining-tokens"] == "96"
    with MockLLM(tokens="1/min burst 100", reply_tokens=3, charge="reserve") as server:
        assert call(server, {"max_tokens": 99})[1]["x-ratelimit-remaining-tokens"] == "0"
        status, headers, body = call(server, {"max_tokens": 100})
        assert (status, body["error"]["type"]) == (429, "tokens")
        assert "retry-after" not in headers


def test_anthropic_style_has_its_own_path_headers_and_errors() -> None:
    """In Anthropic's style a call, a refusal and an overload look like theirs."""
    with MockLLM(style="anthropic", requests="1/min", reply_tokens=2) as server:
        status, headers, body = call(server, path="/v1/messages")
        assert (status, body["content"][0]["text"], body["usage"]["output_tokens"]) == (200, "You said:", 2)
        assert headers["anthropic-ratelimit-requests-remaining"] == "0"
        assert headers["anthropic-ratelimit-requests-reset"].endswith("Z")
        status, headers, body = call(server, path="/v1/messages")
        assert (status, body["error"]["type"]) == (429, "rate_limit_error")
        assert int(headers["retry-after"]) > 50
        assert call(server)[0] == 404
    with MockLLM(style="anthropic", error_rate=1) as server:
        status, _, body = call(server, path="/v1/messages")
        assert (status, body["error"]["type"]) == (529, "overloaded_error")


def test_wrong_calls_get_openai_shaped_errors() -> None:
    """Bad JSON is 400, an unknown path 404, a wrong method 405; only calls are counted."""
    with MockLLM() as server:
        for body, path, status in [
            (b"{", "/v1/chat/completions", 400),
            (b"{}", "/v1/nowhere", 404),
            (b"", "/v1/models", 405),
        ]:
            got, _, answer = call(server, body, path=path)
            assert got == status
            assert answer["error"]["type"] == "invalid_request_error"
            assert answer["error"]["message"]
        page = server.stats()
        assert (page["calls"], page["invalid"], page["admitted"]) == (1, 1, 0)


def test_errors_and_resets_come_at_their_rates_and_from_the_seed() -> None:
    """The same seed gives the same fates; every one is counted."""

    def fates() -> list[int]:
        with MockLLM(error_rate=0.3, reset_rate=0.3, seed=5) as server:
            seen = []
            for _ in range(40):
                try:
                    seen.append(call(server)[0])
                except (ConnectionResetError, RemoteDisconnected):
                    seen.append(0)
            page = server.stats()
            counted = (page["ok"], page["errors"], page["resets"])
            assert counted == (seen.count(200), seen.count(500), seen.count(0))
            assert min(counted) > 0
            return seen

    assert fates() == fates()


def test_repeats_are_counted_per_key_and_reset() -> None:
    """A key worked on twice is one repeat; refused and failed calls repeat nothing."""
    with MockLLM(requests="1/min burst 3") as server:
        for key in ["a", "b", "a", "a", "b"]:
            call(server, {"user": key})
        page = server.reset()
        assert (page["keys"], page["repeats"], page["repeated_keys"], page["rejected"]) == (2, 1, {"a": 2}, 2)
        assert server.stats()["repeats"] == 0


def test_a_client_that_leaves_is_counted_and_forgotten() -> None:
    """A call whose client hangs up is neither in flight nor answered."""
    with MockLLM(latency=60) as server:
        with dial(server) as client:
            body = b'{"model":"m","messages":[{"role":"user","content":"x"}]}'
            client.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b"
                % (len(body), body)
            )
            until(lambda: server.stats()["in_flight"] == 1)
        until(lambda: server.stats()["disconnected"] == 1)
        page = server.stats()
        assert (page["in_flight"], page["ok"], page["peak_in_flight"]) == (0, 0, 1)


def test_pipelined_requests_are_answered_in_order() -> None:
    """Requests sent at once on one connection get their answers one after the other."""
    with MockLLM(latency=0.01, reply_tokens=3) as server:
        with dial(server) as client:
            for word in (b"one", b"two", b"three"):
                body = b'{"model":"m","messages":[{"role":"user","content":"%b"}]}' % word
                close = b"" if word != b"three" else b"Connection: close\r\n"
                head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n%bContent-Length: %d\r\n\r\n" % (
                    close,
                    len(body),
                )
                client.sendall(head + body)
            said = b"".join(iter(lambda: client.recv(65536), b""))
        assert said.count(b"HTTP/1.1 200 OK") == 3
        assert 0 < said.find(b"said: one") < said.find(b"said: two") < said.find(b"said: three")


def test_a_taken_port_is_a_clear_error() -> None:
    """From Python it is an exception that says so, from the shell exit code 2 and one line."""
    with MockLLM() as server:
        port = int(server.url.rpartition(":")[2])
        with pytest.raises(ServerStartError, match="port is taken"):
            MockLLM(port=port).start()
        command = [sys.executable, "-m", "greenkit.testing.mock_llm", "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=WITHIN, check=False)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "port is taken" in done.stderr


def test_wrong_options_do_not_start() -> None:
    """A quota that is none is refused by the process, and by start()."""
    with pytest.raises(ServerStartError):
        MockLLM(requests="plenty").start()


def test_stop_leaves_no_process_and_may_be_repeated() -> None:
    """After stop() the process is gone, at once even with calls in flight, and its URL is no more."""
    server = MockLLM(latency=60).start()
    pid = server.pid
    assert pid is not None
    server.stop()
    server.stop()
    assert gone(pid)
    with pytest.raises(RuntimeError, match="not running"):
        _ = server.url
    with server:
        assert call(server, b"{")[0] == 400
        again = server.pid
    assert again is not None
    assert gone(again)


def test_the_server_dies_with_its_parent() -> None:
    """Even a parent killed without a chance to clean up leaves no server behind."""
    script = "from greenkit.testing import MockLLM; print(MockLLM().start().pid, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not gone(pid)
        parent.send_signal(signal.SIGKILL)
        parent.wait(WITHIN)
        until(lambda: gone(pid))


def test_a_forked_child_does_not_stop_its_parents_server() -> None:
    """stop() in a fork forgets the server; the owner's goes on."""
    with MockLLM() as server:
        child = os.fork()
        if child == 0:
            server.stop()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert server.stats()["calls"] == 0


def test_it_works_from_a_patched_process() -> None:
    """Under gevent's patch start, calls, stats and stop work, and waiting lets others run."""
    script = """
import gevent.monkey; gevent.monkey.patch_all()
import gevent, json, urllib.request
from greenkit.testing import MockLLM
body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}]}).encode()
with MockLLM(latency=0.2) as server:
    ask = lambda: urllib.request.urlopen(server.url + "/v1/chat/completions", body, timeout=10).close()
    gevent.joinall([gevent.spawn(ask) for _ in range(20)], raise_error=True)
    assert server.stats()["peak_in_flight"] == 20, server.stats()
print("fine")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.stdout, done.stderr) == ("fine\n", "")
