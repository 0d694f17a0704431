"""Read answers in HTTP/1.1: bytes in, status, headers and the pieces of a body out.

Pure: no socket, no clock. What is read here is what servers send all day: a status line, headers of one line
each, and a body of a length, in chunks, or until the end. Anything else is given to h11, which httpx has
loaded already, or refused; never guessed: a client that misreads the end of a response takes the next one
for its rest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Body", "Head", "ProtocolError", "UnusualError", "read_head", "read_head_by_h11"]

# Bytes of a head, as httpcore has it.
MOST_HEAD = 100 * 1024
_END = re.compile(rb"\n\r?\n")
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([^\x00\r\n]*))?")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?")
_DIGITS = re.compile(rb"[0-9]{1,18}")
_MOST_LINE = 16 * 1024


class ProtocolError(Exception):
    """What a server sent is no HTTP, or ended before its end."""


class UnusualError(Exception):
    """What a server sent may well be HTTP, but is not read here."""


class Body(Protocol):
    """Take the bytes of a body, and know where it ends.

    Attributes:
        done: The end has been seen.
        rest: Bytes beyond it.
    """

    done: bool
    rest: bytes

    def feed(self, data: bytes) -> bytes:
        """Return the content of `data`; raises ProtocolError."""

    def eof(self) -> None:
        """Take in that nothing more will come; raises ProtocolError unless it is the end."""


@dataclass(slots=True)
class Head:
    """Hold what comes before a body.

    Attributes:
        status: Of the answer.
        reason: Its words.
        version: "HTTP/1.1" or "HTTP/1.0".
        headers: As they came.
        body: Reads what follows.
        keep: The connection may be used again after it.
        rest: Bytes of the body that came with the head.
    """

    status: int
    reason: bytes
    version: bytes
    headers: list[tuple[bytes, bytes]]
    body: Body
    keep: bool
    rest: bytes


class Sized:
    """Read a body of a known length."""

    __slots__ = ("_left", "done", "rest")

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = not length
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """As `Body.feed()`. Switches: never."""
        if len(data) > self._left:
            data, self.rest = data[: self._left], data[self._left :]
        self._left -= len(data)
        self.done = not self._left
        return data

    def eof(self) -> None:
        """As `Body.eof()`. Switches: never."""
        raise ProtocolError(
            "peer closed connection without sending complete message body "
            f"(received all but {self._left} bytes)"
        )


class Endless:
    """Read a body that ends with its connection."""

    __slots__ = ("done", "rest")

    def __init__(self) -> None:
        self.done, self.rest = False, b""

    def feed(self, data: bytes) -> bytes:
        """As `Body.feed()`. Switches: never."""
        return data

    def eof(self) -> None:
        """As `Body.eof()`. Switches: never."""
        self.done = True


class Chunked:
    """Read a body in chunks; trailers are thrown away."""

    __slots__ = ("_buffer", "_left", "_step", "_trailers", "done", "rest")

    def __init__(self) -> None:
        self._buffer = b""
        self._left = self._trailers = 0
        self._step = self._size
        self.done, self.rest = False, b""

    def feed(self, data: bytes) -> bytes:
        """As `Body.feed()`. Switches: never."""
        self._buffer = self._buffer + data if self._buffer else data
        pieces: list[bytes] = []
        while not self.done and self._step(pieces):
            pass
        if self.done:
            self.rest, self._buffer = self._buffer, b""
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def eof(self) -> None:
        """As `Body.eof()`. Switches: never."""
        raise ProtocolError(
            "peer closed connection without sending complete message body (incomplete chunked read)"
        )

    # Each takes what it can of the buffer, and tells whether the next one may go on.

    def _size(self, pieces: list[bytes]) -> bool:
        line = self._line()
        if line is None:
            return False
        size = _SIZE.fullmatch(line)
        if size is None:
            raise ProtocolError(f"illegal chunk header: {line[:80]!r}")
        self._left = int(size.group(1), 16)
        self._step = self._data if self._left else self._trailer
        return True

    def _data(self, pieces: list[bytes]) -> bool:
        piece = self._buffer[: self._left]
        if not piece:
            return False
        pieces.append(piece)
        self._buffer = self._buffer[len(piece) :]
        self._left -= len(piece)
        if not self._left:
            self._step = self._after_data
        return True

    def _after_data(self, pieces: list[bytes]) -> bool:
        if len(self._buffer) < 2:
            return False
        if self._buffer[:2] != b"\r\n":
            raise ProtocolError(f"malformed chunk footer: {self._buffer[:2]!r}")
        self._buffer = self._buffer[2:]
        self._step = self._size
        return True

    def _trailer(self, pieces: list[bytes]) -> bool:
        line = self._line()
        if line is None:
            return False
        self._trailers += len(line)
        if self._trailers > MOST_HEAD:
            raise ProtocolError("the trailers of an answer do not end")
        self.done = not line
        return True

    def _line(self) -> bytes | None:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            if len(self._buffer) > _MOST_LINE:
                raise ProtocolError("a line between chunks does not end")
            return None
        line, self._buffer = self._buffer[:end], self._buffer[end + 2 :]
        return line


def read_head(data: bytes, method: str) -> tuple[Head | None, bytes]:
    """Return (head, bytes not used); no head while it is not complete, nor for one that only announces.

    Raises:
        UnusualError: h11 should have a look at `data`.
        ProtocolError: It is longer than any head.

    Switches: never.
    """
    end = _END.search(data)
    if end is None:
        if len(data) > MOST_HEAD:
            raise ProtocolError("the headers of an answer do not end")
        if data[:5] != b"HTTP/"[: len(data)]:
            raise UnusualError
        return None, data
    lines = data[: end.start()].removesuffix(b"\r").split(b"\r\n")
    first = _STATUS.fullmatch(lines[0])
    if first is None:
        raise UnusualError
    headers = []
    for line in lines[1:]:
        header = _HEADER.fullmatch(line)
        if header is None:
            raise UnusualError  # folded, an odd name, or no HTTP at all
        name, value = header.groups()
        headers.append((name, value.rstrip(b" \t")))
    minor, status, reason = first.groups()
    number = int(status)
    if number < 200:
        if number == 101:
            raise ProtocolError("the server switched protocols, which nobody asked for")
        return None, data[end.end() :]
    body, keep = _framing(headers, number, method)
    return Head(
        number, reason or b"", b"HTTP/1." + minor, headers, body, keep and minor == b"1", data[end.end() :]
    ), b""


def _framing(headers: list[tuple[bytes, bytes]], status: int, method: str) -> tuple[Body, bool]:
    """Return what reads the body, and whether the connection may be used after it."""
    lengths, codings, keep = set(), [], True
    for name, value in headers:
        lower = name.lower()
        if lower == b"content-length":
            lengths.add(value)
        elif lower == b"transfer-encoding":
            codings.append(value.lower())
        elif lower == b"connection":
            keep = keep and b"close" not in value.lower()
    if len(lengths) > 1 or not all(map(_DIGITS.fullmatch, lengths)):
        raise UnusualError
    if codings and (codings != [b"chunked"] or lengths):
        raise UnusualError
    if method == "HEAD" or status in {204, 304}:
        return Sized(0), keep
    if codings:
        return Chunked(), keep
    return (Sized(int(lengths.pop())), keep) if lengths else (Endless(), False)


class _H11Body:
    """Read a body with h11."""

    __slots__ = ("_connection", "_h11", "done", "rest")

    def __init__(self, h11: Any, connection: Any) -> None:
        self._h11 = h11
        self._connection = connection
        self.done, self.rest = False, b""

    def feed(self, data: bytes) -> bytes:
        """As `Body.feed()`. Switches: never."""
        if data:
            self._connection.receive_data(data)
        return self._events()

    def eof(self) -> None:
        """As `Body.eof()`. Switches: never."""
        self._connection.receive_data(b"")
        self._events()
        if not self.done:
            raise ProtocolError("peer closed connection without sending complete message body")

    def _events(self) -> bytes:
        pieces = []
        while not self.done:
            event = _next(self._h11, self._connection)
            if type(event) is self._h11.Data:
                pieces.append(bytes(event.data))
            elif type(event) in {self._h11.EndOfMessage, self._h11.ConnectionClosed}:
                self.done = True
            else:
                break
        return b"".join(pieces)


def read_head_by_h11(
    data: bytes, method: str, *, target: bytes, headers: list[tuple[bytes, bytes]], ended: bool
) -> Head | None:
    """Return the head as h11 reads it, or None while it is not complete.

    Args:
        data: All that has come.
        method: Of the request, whose answer it is.
        target: Likewise.
        headers: Likewise.
        ended: Nothing more will come.

    Raises:
        ProtocolError: It is no HTTP.

    Switches: never.
    """
    import h11  # late: hardly any answer needs it

    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MOST_HEAD)
    try:
        connection.send(h11.Request(method=method, target=target, headers=headers))
        connection.receive_data(data)
        if ended:
            connection.receive_data(b"")
    except h11.ProtocolError as error:
        raise ProtocolError(str(error)) from error
    while True:
        event = _next(h11, connection)
        if event is h11.NEED_DATA:
            return None
        if type(event) is h11.Response:
            break
        if type(event) is not h11.InformationalResponse or event.status_code == 101:
            raise ProtocolError("Server disconnected without sending a response.")
    body = _H11Body(h11, connection)
    return Head(
        event.status_code, event.reason, b"HTTP/" + event.http_version, list(event.headers.raw_items()),
        body, keep=False, rest=b"",
    )  # fmt: skip


def _next(h11: Any, connection: Any) -> Any:
    try:
        return connection.next_event()
    except h11.RemoteProtocolError as error:
        raise ProtocolError(str(error)) from error
