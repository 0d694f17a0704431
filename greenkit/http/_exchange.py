"""A call of httpx or httpx2 over a connection of our own, from its slot to the last byte of its answer."""

from __future__ import annotations

import os
import ssl
import sys
import weakref
from functools import cache, partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

from greenkit._clock import MONOTONIC
from greenkit.errors import WaitTimeout
from greenkit.http._drain import LONGEST, MOST_BYTES, may_wait
from greenkit.http._http1 import ProtocolError, UnusualError, read_head, read_head_by_h11
from greenkit.http._httpx_context import context_for_httpx
from greenkit.http._wire import Connection, Origin, is_timeout, network_info

if TYPE_CHECKING:
    from greenkit.http._contexts import Trust
    from greenkit.http._http1 import Head

__all__ = ["CallStream", "Exchanges"]

_PORTS = {"http": 80, "https": 443}
_UNUSUAL_HEADERS = frozenset({b"expect", b"upgrade"})
_KNOWN_EXTENSIONS = frozenset({"timeout"})


class Exchanges:
    """Carry requests over a pool of each origin; see `HTTPTransport`.

    Args:
        size: Connections at once to one origin.
        trust: Whom connections trust, or the context that says so.
        keep_idle: Seconds an idle connection is kept.
    """

    def __init__(self, size: int, trust: Trust | ssl.SSLContext, keep_idle: float) -> None:
        self._size = size
        self._trust = trust
        self._keep_idle = keep_idle
        self._origins: dict[tuple[str, str, int], Origin] = {}
        self._pid = os.getpid()
        self._context: ssl.SSLContext | None = None
        self._fallback: Any = None

    def __repr__(self) -> str:
        return ", ".join(f"{host}:{port}" for _, host, port in self._origins)

    def handle_request(self, request: Any) -> Any:
        """Send a request of httpx, and return the answer once its headers are there. Switches: may.

        Raises:
            httpx.TransportError: What went wrong, as httpx's own transport says it.
        """
        kind = _kind_of(request)
        if _is_unusual(request):
            return self._own(kind).handle_request(request)
        timeouts = request.extensions.get("timeout") or {}
        origin = self._origin(kind, request.url)
        try:
            origin.take(timeouts.get("pool"))
        except WaitTimeout as error:
            message = f"all {self._size} connections to {request.url.host} were in use; nothing was sent"
            raise kind.httpx.PoolTimeout(message, request=request) from error
        call = _Call(kind, origin, request, timeouts)
        try:
            head = call.head()
        except BaseException:  # a kill, too
            call.drop()
            raise
        return kind.answer(call, head)

    def close(self) -> None:
        """Close what is idle. Switches: never."""
        for origin in self._origins.values():
            origin.close()
        if self._fallback is not None:
            self._fallback.close()

    def _origin(self, kind: _Kind, url: Any) -> Origin:
        scheme = url.scheme
        key = (scheme, url.host, url.port or _PORTS.get(scheme, 0))
        if self._pid != os.getpid():  # what the parent has opened is the parent's
            self._origins, self._pid = {}, os.getpid()
        origin = self._origins.get(key)
        if origin is not None:
            return origin
        if scheme not in _PORTS:
            what = (
                f"unsupported protocol '{scheme}://'"
                if scheme
                else "missing an 'http://' or 'https://' protocol"
            )
            raise kind.httpx.UnsupportedProtocol(f"Request URL has an {what}")
        made = Origin(*key, size=self._size, context=self._context_of(kind), idle_for=self._keep_idle)
        return self._origins.setdefault(key, made)

    def _context_of(self, kind: _Kind) -> ssl.SSLContext:
        if self._context is None:
            trust = self._trust
            context = trust if isinstance(trust, ssl.SSLContext) else context_for_httpx(kind.httpx, trust)
            context.set_alpn_protocols(["http/1.1"])
            self._context = context
        return self._context

    def _own(self, kind: _Kind) -> Any:
        if self._fallback is None:
            limits = kind.httpx.Limits(
                max_connections=self._size,
                max_keepalive_connections=self._size,
                keepalive_expiry=self._keep_idle,
            )
            self._fallback = kind.httpx.HTTPTransport(verify=self._context_of(kind), limits=limits)
        return self._fallback


def _is_unusual(request: Any) -> bool:
    """Tell whether httpx's own transport should have it."""
    if request.method == "CONNECT" or not request.extensions.keys() <= _KNOWN_EXTENSIONS:
        return True
    return any(name.lower() in _UNUSUAL_HEADERS for name, _ in request.headers.raw)


class _Call:
    """One request and its answer, from the slot to the last byte."""

    __slots__ = (
        "__weakref__",
        "_body",
        "_connection",
        "_keep",
        "_kind",
        "_origin",
        "_over",
        "_request",
        "_since",
        "_timeouts",
    )  # fmt: skip

    def __init__(self, kind: _Kind, origin: Origin, request: Any, timeouts: dict[str, Any]) -> None:
        self._kind = kind
        self._origin = origin
        self._request = request
        self._timeouts = timeouts
        self._connection: Connection | None = None
        self._body: Any = None
        self._keep = self._over = False
        self._since = sys.exc_info()[1]  # what is handled already has nothing to do with this call

    # -- sending -----------------------------------------------------------------------------------------

    def head(self) -> Head:
        """Send the request and return the head of the answer. Switches: may."""
        self._connection = self._origin.idle() or self._connect()
        broken = self._send(self._connection)
        head = self._receive_head(self._connection, broken)
        self._body = head.body
        self._keep = head.keep and not broken and not _asks_to_close(self._request)
        return head

    def _connect(self) -> Connection:
        try:
            return self._origin.connect(self._timeouts.get("connect"))
        except OSError as error:
            self._fail("Connect", error)

    def _send(self, connection: Connection) -> OSError | None:
        """Send all of it; return the error of a server that listens no more, but may have answered."""
        request, timeout = self._request, self._timeouts.get("write")
        data, chunked, length = self._head_bytes()
        sent = 0
        try:
            for piece in request.stream:
                sent += len(piece)
                if not piece:
                    continue
                data += b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece
                if len(data) > 65_536:
                    connection.send(data, timeout)
                    data = b""
            if chunked:
                data += b"0\r\n\r\n"
            elif sent != (length or 0):
                raise self._kind.httpx.LocalProtocolError(
                    f"the body has {sent} bytes, and its Content-Length says {length or 0}", request=request
                )
            if data:
                connection.send(data, timeout)
        except OSError as error:
            if is_timeout(error):
                self._fail("Write", error)
            return error
        return None

    def _head_bytes(self) -> tuple[bytes, bool, int | None]:
        """Return (request line and headers, whether the body goes in chunks, its length)."""
        request = self._request
        lines = [b"%b %b HTTP/1.1" % (request.method.encode(), request.url.raw_path)]
        chunked, length = False, None
        for name, value in request.headers.raw:
            lines.append(b"%b: %b" % (name, value))
            lower = name.lower()
            if lower == b"content-length":
                length = int(value)
            elif lower == b"transfer-encoding":
                chunked = value.lower() == b"chunked"
        data = b"\r\n".join(lines)
        if data.count(b"\n") != len(lines) - 1 or data.count(b"\r") != len(lines) - 1 or b"\0" in data:
            message = "a header, or the address, of the request holds a line break or a zero"
            raise self._kind.httpx.LocalProtocolError(message, request=request)
        return data + b"\r\n\r\n", chunked, length

    # -- receiving ---------------------------------------------------------------------------------------

    def _receive_head(self, connection: Connection, broken: OSError | None) -> Head:
        data, method, unusual, piece = b"", self._request.method, False, b""
        while True:
            head, rest = (None, data) if unusual else self._read_head(data, method)
            unusual = unusual or rest is None
            if unusual:
                head = self._head_by_h11(data, ended=False)
            if head is not None:
                return head
            if rest is not None and len(rest) < len(data):
                data = rest  # one that only announces the answer, which may be there already
                continue
            piece = self._receive(connection, self._timeouts.get("read"), broken)
            data += piece
            if not piece:
                return self._last_head(data, broken)

    def _last_head(self, data: bytes, broken: OSError | None) -> Head:
        """Return the head of an answer after which the server closed, if it is one."""
        if broken is not None:
            self._fail("Write", broken)
        head = self._head_by_h11(data, ended=True) if data else None
        if head is None:
            self._no_protocol("Server disconnected without sending a response.")
        return head

    def _read_head(self, data: bytes, method: str) -> tuple[Head | None, bytes | None]:
        try:
            return read_head(data, method)
        except UnusualError:
            return None, None
        except ProtocolError as error:
            self._no_protocol(str(error), error)

    def _head_by_h11(self, data: bytes, *, ended: bool) -> Head | None:
        request = self._request
        try:
            return read_head_by_h11(
                data, request.method, target=request.url.raw_path, headers=request.headers.raw, ended=ended
            )
        except ProtocolError as error:
            self._no_protocol(str(error), error)

    def _receive(self, connection: Connection, timeout: float | None, broken: OSError | None = None) -> bytes:
        try:
            return connection.receive(timeout)
        except OSError as error:
            self._fail("Write" if broken else "Read", broken or error)

    def more(self, timeout: float | None) -> bytes:
        """Return the next content of the body; empty when it has ended. Switches: may."""
        connection, body = self._connection, self._body
        while not self._over and connection is not None:
            piece = self._receive(connection, timeout)
            try:
                content: bytes = body.feed(piece) if piece else (body.eof() or b"")
            except ProtocolError as error:
                self._no_protocol(str(error), error)
            if body.done:
                self.finish()
            if content:
                return content
        return b""

    def buffered_content(self, head: Head) -> bytes:
        """Return what of the body came with the head. Switches: never."""
        try:
            content = head.body.feed(head.rest)
        except ProtocolError as error:
            self._no_protocol(str(error), error)
        if head.body.done:
            self.finish()
        return content

    # -- ending ------------------------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Tell whether nothing more will come."""
        return self._over

    def finish(self) -> None:
        """Give back the connection of an answer that was read to its end. Switches: never."""
        if not self._over:
            self._over = True
            connection = self._connection
            if self._keep and connection is not None and not self._body.rest:
                self._origin.give_back(connection)
            else:
                self._origin.drop(connection)

    def drop(self) -> None:
        """Close the connection of a response that will not be read to its end. Switches: never."""
        if not self._over:
            self._over = True
            self._origin.drop(self._connection)

    def close(self) -> None:
        """Read the end if it is there within a moment, and give back or close. Switches: may."""
        if self._over:
            return
        try:
            if may_wait(self._since):
                self._drain()
        finally:
            self.drop()

    def _drain(self) -> None:
        deadline, read = MONOTONIC.now() + LONGEST, 0
        try:
            while not self._over and read <= MOST_BYTES and MONOTONIC.now() < deadline:
                read += len(self.more(max(0.001, deadline - MONOTONIC.now())))
        except self._kind.httpx.TransportError:
            return

    # -- errors ------------------------------------------------------------------------------------------

    def _fail(self, what: str, error: OSError) -> NoReturn:
        """Raise httpx's error: ConnectTimeout, ReadError and the like."""
        name = f"{what}{'Timeout' if is_timeout(error) else 'Error'}"
        raise getattr(self._kind.httpx, name)(str(error) or repr(error), request=self._request) from error

    def _no_protocol(self, message: str, error: Exception | None = None) -> NoReturn:
        raise self._kind.httpx.RemoteProtocolError(message, request=self._request) from error


def _asks_to_close(request: Any) -> bool:
    return b"close" in request.headers.get("connection", "").lower().encode()


class _NetworkStream:
    """Be what httpx has in `response.extensions["network_stream"]`, as far as it can be asked."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def get_extra_info(self, info: str) -> Any:
        return network_info(self._connection, info)


class _Kind:
    """What is made of a family's classes: httpx's, or httpx2's."""

    def __init__(self, httpx: Any) -> None:
        self.httpx = httpx
        self._stream = type("CallStream", (CallStream, httpx.SyncByteStream), {})

    def answer(self, call: _Call, head: Head) -> Any:
        """Return the response of the family; its stream ends the call. Switches: never."""
        connection = call._connection
        try:
            first = call.buffered_content(head)
            extensions: dict[str, Any] = {"http_version": head.version, "reason_phrase": head.reason}
            if connection is not None:
                extensions["network_stream"] = _NetworkStream(connection)
            if call.over:
                stream = self.httpx.ByteStream(first)
            else:
                stream = self._stream()
                stream.begin(call, first)
            return self.httpx.Response(
                head.status, headers=head.headers, stream=stream, extensions=extensions
            )
        except BaseException:
            call.drop()
            raise


class CallStream:
    """Give the content of an answer piece by piece; forgotten, it gives its connection's place back."""

    def begin(self, call: _Call, first: bytes) -> None:
        """Stand for `call`, of whose content `first` has come. Switches: never."""
        self._call = call
        self._first = first
        call._origin.streaming += 1
        self._forgotten = weakref.finalize(self, partial(_forget, call))
        self._forgotten.atexit = False

    def __iter__(self) -> Any:
        call = self._call
        try:
            first, self._first = self._first, b""
            if first:
                yield first
            read = call._timeouts.get("read")
            while piece := call.more(read):
                yield piece
        except GeneratorExit:
            raise
        except BaseException:  # a kill, too: a later read would get another call's answer
            call.drop()
            raise

    def close(self) -> None:
        """End the call; see `_Call.close()`. Switches: may."""
        self._call.close()
        self._forgotten()


def _forget(call: _Call) -> None:
    call._origin.streaming -= 1
    call.drop()


@cache
def _kind(name: str) -> _Kind:
    return _Kind(import_module(name))


def _kind_of(request: Any) -> _Kind:
    return _kind(type(request).__module__.partition(".")[0])
