"""Take HTTP/1.1 requests out of a byte buffer, and put answers into bytes.

Pure. Just enough of HTTP for API clients, and cheap: a request costs a few microseconds here, so
that the mock LLM server can share a small machine with what it is meant to test.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "CHUNK_END",
    "Request",
    "WireError",
    "answer",
    "chunk",
    "stream_head",
    "take_request",
    "wants_continue",
]

MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 16 * 1024 * 1024
CHUNK_END = b"0\r\n\r\n"
_REASONS = {
    200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 411: "Length Required",
    413: "Content Too Large", 429: "Too Many Requests", 431: "Request Header Fields Too Large",
    500: "Internal Server Error", 529: "Overloaded",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Request:
    """Hold one whole request; header names are lower case, the path has no query."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    keep_alive: bool


class WireError(Exception):
    """Refuse bytes that are no request we serve; the connection must be closed after `status`."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def take_request(buffer: bytearray) -> Request | None:
    """Cut the first whole request off `buffer`; None when more bytes must come first.

    Raises:
        WireError: Not HTTP, too large, or a body without a length.

    Switches: never.
    """
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        if len(buffer) > MAX_HEAD_BYTES:
            raise WireError(431, f"the request's head exceeds {MAX_HEAD_BYTES} bytes")
        return None
    method, path, version, headers = _head(buffer[:end].decode("latin-1"))
    size = _body_size(headers)
    stop = end + 4 + size
    if len(buffer) < stop:
        return None
    body = bytes(buffer[end + 4 : stop])
    del buffer[:stop]
    connection = headers.get("connection", "").lower()
    keep_alive = connection == "keep-alive" if version == "HTTP/1.0" else connection != "close"
    return Request(method, path, headers, body, keep_alive)


def wants_continue(buffer: bytearray) -> bool:
    """Tell whether the client holds its body back until it hears `100 Continue`.

    Switches: never.
    """
    end = buffer.find(b"\r\n\r\n")
    return end >= 0 and b"100-continue" in buffer[:end].lower()


def answer(
    status: int, body: bytes, *, headers: str = "", keep_alive: bool = True, kind: str = "application/json"
) -> bytes:
    """Render an answer with a length; `headers` are whole lines, each ended by CRLF.

    Switches: never.
    """
    close = "" if keep_alive else "connection: close\r\n"
    head = (
        f"HTTP/1.1 {status} {_REASONS.get(status, 'Unknown')}\r\ncontent-type: {kind}\r\n"
        f"content-length: {len(body)}\r\n{headers}{close}\r\n"
    )
    return head.encode("latin-1") + body


def stream_head(*, headers: str = "", keep_alive: bool = True) -> bytes:
    """Render the head of a stream of server-sent events, sent in chunks.

    Switches: never.
    """
    close = "" if keep_alive else "connection: close\r\n"
    head = (
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
        f"transfer-encoding: chunked\r\n{headers}{close}\r\n"
    )
    return head.encode("latin-1")


def chunk(data: bytes) -> bytes:
    """Frame one piece of a chunked body.

    Switches: never.
    """
    return b"%x\r\n%b\r\n" % (len(data), data)


def _head(text: str) -> tuple[str, str, str, dict[str, str]]:
    lines = text.split("\r\n")
    parts = lines[0].split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise WireError(400, f"not an HTTP/1.1 request line: {lines[0][:80]!r}")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return parts[0], parts[1].partition("?")[0], parts[2], headers


def _body_size(headers: dict[str, str]) -> int:
    if "transfer-encoding" in headers:
        raise WireError(411, "send the body with Content-Length, not in chunks")
    text = headers.get("content-length", "0")
    if not (text.isascii() and text.isdigit()):
        raise WireError(400, f"Content-Length is no number: {text[:40]!r}")
    size = int(text)
    if size > MAX_BODY_BYTES:
        raise WireError(413, f"the body has {size} bytes, at most {MAX_BODY_BYTES} are taken")
    return size
