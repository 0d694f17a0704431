"""Reading answers in HTTP/1.1, cut anywhere, against h11."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenkit.http._http1 import MOST_HEAD, ProtocolError, UnusualError, read_head, read_head_by_h11


def read(data, method="GET", *, ends=True):
    """Return (status, headers, content, whether the connection may be kept), read byte by byte."""
    head, buffer, position, content = None, b"", 0, []
    while head is None:
        head, buffer = read_head(buffer, method)
        if head is None:
            if position == len(data):
                return None
            buffer, position = buffer + data[position : position + 1], position + 1
    content.append(head.body.feed(head.rest))
    while not head.body.done and position < len(data):
        content.append(head.body.feed(data[position : position + 1]))
        position += 1
    if not head.body.done and ends:
        head.body.eof()
    return head.status, head.headers, b"".join(content), head.keep and head.body.done


def by_h11(data, method="GET"):
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
    connection.receive_data(data)
    connection.receive_data(b"")
    status, headers, content = None, [], b""
    while True:
        event = connection.next_event()
        if type(event) is h11.Response:
            status, headers = event.status_code, list(event.headers.raw_items())
        elif type(event) is h11.Data:
            content += bytes(event.data)
        elif type(event) in {h11.EndOfMessage, h11.ConnectionClosed}:
            return status, headers, content


names = st.sampled_from([b"Date", b"x-a", b"X-B", b"set-cookie", b"Content-Type"])
values = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=12).map(str.encode)
pads = st.sampled_from([b"", b" ", b"  \t"])
bodies = st.lists(st.binary(min_size=1, max_size=40), max_size=6)


@given(
    st.sampled_from([200, 204, 304, 404, 429, 500]),
    st.lists(st.tuples(names, values, pads), max_size=5),
    bodies,
    st.sampled_from(["length", "chunked", "trailers", "extension", "close"]),
    st.sampled_from(["GET", "HEAD"]),
    st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"]),
)
@settings(max_examples=200, deadline=None)
def test_usual_answers_are_read_as_h11_reads_them(status, given_headers, pieces, framing, method, before):
    """Status, headers and content, whatever the pieces they come in."""
    headers = b"".join(b"%b:%b%b%b\r\n" % (name, pad, value, pad) for name, value, pad in given_headers)
    content = b"".join(pieces)
    nothing = method == "HEAD" or status in {204, 304}
    if framing == "length":
        headers += b"Content-Length: %d\r\n" % len(content)
        body = content
    elif framing == "close":
        body = content
    else:
        headers += b"Transfer-Encoding: chunked\r\n"
        more = b";a=b" if framing == "extension" else b""
        body = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), more, piece) for piece in pieces)
        body += b"0\r\n" + (b"x-t: 1\r\n" if framing == "trailers" else b"") + b"\r\n"
    data = b"HTTP/1.1 %d Some Words\r\n%b\r\n" % (status, headers)
    data += b"" if nothing else body
    *found, keep = read(before + data, method)
    assert tuple(found) == by_h11(before + data, method)
    assert keep == (nothing or framing != "close")


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nx-a: 1\r\n and more\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\ncontent-length: 0\n\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nx a: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx-a : 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: 1\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
    ],
)
def test_what_is_unusual_is_not_guessed(data):
    """h11 decides: it reads it, or it is no HTTP."""
    with pytest.raises(UnusualError):
        read_head(data, "GET")
    try:
        expected = by_h11(data)
    except h11.RemoteProtocolError:
        with pytest.raises(ProtocolError):
            read_head_by_h11(data, "GET", target=b"/", headers=[(b"host", b"x")], ended=True)
        return
    head = read_head_by_h11(data, "GET", target=b"/", headers=[(b"host", b"x")], ended=True)
    content = head.body.feed(b"")
    if not head.body.done:
        head.body.eof()
    assert (head.status, head.headers, content) == expected
    assert not head.keep


@pytest.mark.parametrize(
    ("body", "framing"),
    [
        (b"ab", b"content-length: 3"),
        (b"3\r\nab", b"transfer-encoding: chunked"),
        (b"3\r\nabc\r\n", b"transfer-encoding: chunked"),
        (b"3\r\nabc\r\n0\r\n", b"transfer-encoding: chunked"),
        (b"x\r\nabc\r\n", b"transfer-encoding: chunked"),
        (b"-1\r\nabc\r\n", b"transfer-encoding: chunked"),
        (b"ffffffffffffffffff\r\nabc\r\n", b"transfer-encoding: chunked"),
        (b"3\r\nabcd\r\n", b"transfer-encoding: chunked"),
        (b"3;" + b"x" * 20_000, b"transfer-encoding: chunked"),
    ],
)
def test_a_body_that_is_cut_short_or_no_body_is_an_error(body, framing):
    """Nobody takes half an answer for a whole one."""
    with pytest.raises(ProtocolError):
        read(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n" + body)


def test_what_comes_after_the_end_is_not_taken_for_content():
    """A connection with more to say than was asked for cannot be used again."""
    head, _ = read_head(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nabHTTP/1.1 200", "GET")
    assert head.body.feed(head.rest) == b"ab"
    assert (head.body.done, head.body.rest) == (True, b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("version", "connection", "keep"), [("1.1", "", True), ("1.1", "Close", False), ("1.0", "", False)]
)
def test_a_connection_is_kept_when_the_server_says_nothing_else(version, connection, keep):
    """As HTTP/1.1 has it; 1.0 closes."""
    data = f"HTTP/{version} 200 OK\r\nconnection: {connection}\r\ncontent-length: 0\r\n\r\n".encode()
    assert read(data)[-1] is keep


def test_headers_that_do_not_end_are_refused():
    """A server cannot fill the memory of who listens."""
    with pytest.raises(ProtocolError, match="do not end"):
        read_head(b"HTTP/1.1 200 OK\r\n" + b"x-a: 1\r\n" * (MOST_HEAD // 8), "GET")
