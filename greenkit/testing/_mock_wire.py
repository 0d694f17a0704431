"""HTTP/1.1 of the mock LLM server: h11 reads requests, answers are written here.

Pure. Loaded in the mock's own process only.
"""

from __future__ import annotations

from dataclasses import dataclass

import h11

__all__ = [
    "CHUNK_END",
    "Request",
    "RequestReader",
    "WireError",
    "answer",
    "chunk",
    "stream_head",
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


class RequestReader:
    """Turn one client's bytes into whole requests, one after the other."""

    __slots__ = ("_body", "_head", "_parser")

    def __init__(self) -> None:
        self._begin()

    def _begin(self, rest: bytes = b"") -> None:
        # One parser a request: h11's would want to see our answers before it goes on to the next.
        self._parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._head: h11.Request | None = None
        self._body = bytearray()
        if rest:
            self._parser.receive_data(rest)

    @property
    def awaits_continue(self) -> bool:
        """Tell whether the client holds its body back until it gets `100 Continue`."""
        return self._parser.they_are_waiting_for_100_continue

    def feed(self, data: bytes) -> None:
        """Add what was received."""
        self._parser.receive_data(data)

    def take(self) -> Request | None:
        """Return the next whole request; None when more bytes must come first.

        Raises:
            WireError: Not HTTP, or too large.
        """
        try:
            while not isinstance(event := self._parser.next_event(), h11.EndOfMessage):
                if isinstance(event, h11.Request):
                    self._head = event
                    _check_size(int(dict(event.headers).get(b"content-length", 0)))
                elif isinstance(event, h11.Data):
                    self._body += event.data
                    _check_size(len(self._body))
                else:
                    return None  # NEED_DATA
        except h11.RemoteProtocolError as error:
            raise WireError(error.error_status_hint, str(error)) from None
        assert self._head is not None  # h11 ends no message that has not begun
        request = _whole(self._head, bytes(self._body))
        self._begin(self._parser.trailing_data[0])
        return request


def _check_size(size: int) -> None:
    if size > MAX_BODY_BYTES:
        raise WireError(413, f"the body has {size} bytes, at most {MAX_BODY_BYTES} are taken")


def _whole(head: h11.Request, body: bytes) -> Request:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
    connection = headers.get("connection", "").lower()
    keep_alive = connection == "keep-alive" if head.http_version == b"1.0" else connection != "close"
    path = head.target.decode("latin-1").partition("?")[0]
    return Request(head.method.decode("ascii"), path, headers, body, keep_alive)


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
