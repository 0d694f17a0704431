"""The mock LLM server's HTTP and its two dialects, on bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from greenkit.testing._mock_anthropic import Anthropic
from greenkit.testing._mock_dialect import AskError, Dialect, write_reply
from greenkit.testing._mock_openai import OpenAI
from greenkit.testing._mock_rules import Quota, parse_rate
from greenkit.testing._mock_wire import Request, RequestReader, WireError, answer

POST = b"POST /v1/x?y=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nX-Request-Key: k\r\n\r\nbody"


def fed(data: bytes) -> RequestReader:
    """Return a reader that has received `data`."""
    reader = RequestReader()
    reader.feed(data)
    return reader


def test_a_request_cut_anywhere_is_taken_whole() -> None:
    """Whatever the cut, nothing comes before the last byte, and two requests come one after the other."""
    for cut in range(1, len(POST)):
        reader = fed(POST[:cut])
        assert reader.take() is None
        reader.feed(POST[cut:] + POST)
        for _ in range(2):
            request = reader.take()
            assert request is not None
            assert (request.method, request.path, request.body) == ("POST", "/v1/x", b"body")
            assert request.headers["x-request-key"] == "k"
        assert reader.take() is None


def test_a_body_in_chunks_is_put_together() -> None:
    """Some clients send no length."""
    reader = fed(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
    assert reader.take() is None
    reader.feed(b"1\r\nc\r\n0\r\n\r\n")
    request = reader.take()
    assert request is not None
    assert request.body == b"abc"


@pytest.mark.parametrize(
    ("head", "keep"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Close\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", True),
    ],
)
def test_connections_are_kept_as_http_says(head: bytes, keep: bool) -> None:
    """HTTP/1.1 keeps a connection unless told not to, HTTP/1.0 the other way round."""
    request = fed(head).take()
    assert isinstance(request, Request)
    assert request.keep_alive is keep


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: many\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (b"x" * 70_000, 431),
    ],
)
def test_what_is_not_served_is_refused(data: bytes, status: int) -> None:
    """Bytes we cannot take are answered with the right status, not ignored."""
    with pytest.raises(WireError) as caught:
        fed(data).take()
    assert caught.value.status == status


def test_a_client_that_waits_for_continue_is_seen() -> None:
    """Only a whole head with the expectation counts."""
    post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n"
    for data, awaits in (
        (post + b"Expect: 100-continue\r\n\r\n", True),
        (post + b"\r\n", False),
        (post + b"Expect: 100-continue", False),
    ):
        reader = fed(data)
        assert reader.take() is None
        assert reader.awaits_continue is awaits


def test_an_answer_ends_where_it_says() -> None:
    """The length is the body's, and closing is announced."""
    head, _, body = answer(404, b"abc", headers="x: y\r\n", keep_alive=False).partition(b"\r\n\r\n")
    assert body == b"abc"
    assert head.split(b"\r\n")[0] == b"HTTP/1.1 404 Not Found"
    assert {b"content-length: 3", b"x: y", b"connection: close"} <= set(head.split(b"\r\n"))


def ask_body(**changes: Any) -> bytes:
    """Return a good body with some of it changed."""
    message = {"role": "user", "content": "one two three"}
    return json.dumps({"model": "m", "messages": [message], "max_tokens": 5} | changes).encode()


@pytest.mark.parametrize("dialect", [OpenAI(), Anthropic()])
@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", None),
        (b"[]", None),
        (ask_body(model=None), "model"),
        (ask_body(messages=[]), "messages"),
        (ask_body(messages=["hi"]), "messages[0]"),
        (ask_body(messages=[{"role": "user", "content": 5}]), "messages[0].content"),
        (ask_body(max_tokens=0), "max_tokens"),
        (ask_body(max_tokens=True), "max_tokens"),
    ],
)
def test_a_bad_body_is_refused_with_the_part_that_is_wrong(
    dialect: Dialect, body: bytes, param: str | None
) -> None:
    """A body that is no call is refused, naming its wrong part."""
    with pytest.raises(AskError) as caught:
        dialect.read(body, {})
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("headers", "changes", "key"),
    [
        ({"idempotency-key": "a", "x-request-key": "b"}, {"user": "c"}, "a"),
        ({"x-request-key": "b"}, {"user": "c"}, "b"),
        ({}, {"user": "c", "metadata": {"key": "d"}}, "c"),
        ({}, {"metadata": {"key": "d"}}, "d"),
        ({}, {"metadata": None}, None),
    ],
)
def test_the_key_is_the_first_that_is_given(
    headers: dict[str, str], changes: dict[str, Any], key: str | None
) -> None:
    """Headers come before the body, `user` before `metadata.key`."""
    assert OpenAI().read(ask_body(**changes), headers).key == key


def test_an_answer_is_cut_at_max_tokens() -> None:
    """The answer begins with the prompt, has as many words as tokens, and says when it was cut."""
    ask = OpenAI().read(ask_body(), {})
    reply = write_reply(ask, serial=1, created=0, tokens=9)
    assert (reply.text, reply.finish) == ("You said: one two three", "length")
    assert write_reply(ask, serial=1, created=0, tokens=3).finish == "stop"


@pytest.mark.parametrize("dialect", [OpenAI(), Anthropic()])
@pytest.mark.parametrize("tokens", [1, 2, 3, 7, 40])
def test_streamed_and_whole_answers_say_the_same(dialect: Dialect, tokens: int) -> None:
    """The words of all events together are the text of the whole answer."""
    ask = dialect.read(ask_body(max_tokens=100, stream_options={"include_usage": True}), {})
    reply = write_reply(ask, serial=1, created=0, tokens=tokens)
    assert len(reply.text.split()) == tokens
    assert json.dumps(reply.text).encode() in dialect.whole(ask, reply)
    pieces = []
    for event in dialect.events(ask, reply):
        data = event.rpartition(b"data: ")[2].strip()
        value = {} if data == b"[DONE]" else json.loads(data)
        for choice in value.get("choices", ()):
            pieces.append(choice["delta"].get("content", ""))
        pieces.append(value.get("delta", {}).get("text", ""))
    assert "".join(pieces) == reply.text


def test_anthropic_resets_are_instants() -> None:
    """Anthropic's reset is an RFC 3339 time, rounded up to a second."""
    quota = Quota(requests=parse_rate("60/min burst 10"))
    for _ in range(3):
        quota.take(50.0, tokens=1)
    assert Anthropic().quota_headers(quota, 50.0, wall=1_700_000_000.5) == (
        "anthropic-ratelimit-requests-limit: 60\r\n"
        "anthropic-ratelimit-requests-remaining: 7\r\n"
        "anthropic-ratelimit-requests-reset: 2023-11-14T22:13:24Z\r\n"
    )
