"""One exchange over a connection of urllib3's pool: a request sent at once, its answer read to the end.

urllib3 makes the connections, keeps them and counts them; http.client, which takes a fifth of a
millisecond for what is in between, is asked only about answers that `_http1` does not read. Errors of
connecting, sending and the head are requests' own; what breaks off a body is kept with what came of it.
"""

from __future__ import annotations

import errno
import http.client
import io
import re
import ssl
import sys
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import requests
from urllib3 import exceptions as urllib3_errors
from urllib3.util.ssl_match_hostname import CertificateError

from greenkit.http._http1 import ProtocolError, UnusualError, read_head
from greenkit.http._wire import Connection, is_timeout

if TYPE_CHECKING:
    from greenkit.http._http1 import Head

__all__ = ["Fetched", "Order", "fetch"]

# Methods of which a second request does no more than the first (RFC 9110, 9.2.2).
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
# A larger body is sent apart from its head rather than copied behind it.
_MOST_AT_ONCE = 65_536
# The server listens no more, but may have answered already (urllib3 2.8, `_make_request`).
_NO_LISTENER = frozenset({errno.EPIPE, errno.ECONNRESET, errno.EPROTOTYPE})
# Where the value of a header goes on in another line.
_FOLD = re.compile(r"\r?\n[ \t]+")


class Order(NamedTuple):
    """Hold what is to be sent, and how long may be waited for it.

    Attributes:
        request: As it was prepared.
        target: Path and query.
        head: Request line and headers.
        connect: Seconds to connect, and for the server to take what is sent.
        read: Seconds between two pieces of the answer.
    """

    request: requests.PreparedRequest
    target: str
    head: bytes
    connect: float | None
    read: float | None


class Fetched(NamedTuple):
    """Hold an answer.

    Attributes:
        status: Its number.
        reason: Its words.
        version: 10 or 11.
        headers: As they came.
        content: The body, before any decoding.
        error: What broke the body off.
        keep: The connection may be used again.
    """

    status: int
    reason: str
    version: int
    headers: list[tuple[str, str]]
    content: bytes
    error: Exception | None
    keep: bool


class _UnansweredError(Exception):
    """A connection that was kept has ended before a byte of the answer; its cause says how."""


def fetch(adapter: Any, pool: Any, order: Order) -> Fetched:
    """Return the answer to `order`, over a connection of `pool`'s.

    Raises:
        EmptyPoolError: No connection came free in time.
        requests.exceptions.RequestException: As requests says what went wrong.

    Switches: may.
    """
    try:
        connection = pool._get_conn()
    except urllib3_errors.EmptyPoolError:
        raise
    except BaseException:
        pool._put_conn(None)  # as urlopen() does, and `Slots` reckons with
        raise
    pool.num_requests += 1
    fetched = None
    try:
        if type(connection) is not pool.ConnectionCls:  # put there by another, while it had the pool's way
            connection.close()
            connection = pool._new_conn()
        fetched = _fetch_retrying(pool, connection, order)
    except (OSError, http.client.HTTPException, urllib3_errors.HTTPError, CertificateError) as error:
        _raise_as_requests(adapter, pool, order, error)
    finally:
        if fetched is None or not fetched.keep:  # killed, too
            connection.close()
            connection = None
        pool._put_conn(connection)
    return fetched


def _fetch_retrying(pool: Any, connection: Any, order: Order) -> Fetched:
    kept = not connection.is_closed
    try:
        return _fetch_once(pool, connection, order, kept=kept)
    except _UnansweredError:
        # The server ended it while the request was on its way.
        connection.close()
        return _fetch_once(pool, connection, order, kept=False)


def _fetch_once(pool: Any, connection: Any, order: Order, *, kept: bool) -> Fetched:
    _connect(pool, connection, order)
    wire = Connection(connection.sock)
    broken = _send(connection, order)
    try:
        data = wire.receive(order.read)
    except OSError as error:
        if is_timeout(error):
            _raise_timeout(pool, order, error)
        if kept and _may_repeat(order):
            raise _UnansweredError from error
        raise
    if not data:
        if kept and _may_repeat(order):
            raise _UnansweredError
        raise http.client.RemoteDisconnected("Remote end closed connection without response")
    try:
        return _answer(wire, order, data, broken=broken)
    except OSError as error:
        if is_timeout(error):
            _raise_timeout(pool, order, error)
        raise


def _connect(pool: Any, connection: Any, order: Order) -> None:
    connection.timeout = order.connect
    try:
        pool._validate_conn(connection)
        if connection.is_closed:
            connection.connect()
    except OSError as error:
        if isinstance(error, TimeoutError):  # of the handshake: the connection's own are urllib3's
            message = f"Read timed out. (read timeout={order.connect})"
            raise urllib3_errors.ReadTimeoutError(pool, order.target, message) from error
        raise


def _send(connection: Any, order: Order) -> bool:
    """Send all of it; tell whether the server would not take it, but may have answered."""
    body: Any = order.request.body or b""
    sock = connection.sock
    sock.settimeout(order.connect)
    try:
        data = order.head if len(body) > _MOST_AT_ONCE else order.head + body
        sent = sock.send(data)  # nearly always all of it; sendall() of gevent makes a timer first
        if sent < len(data):
            sock.sendall(data[sent:])
        if len(body) > _MOST_AT_ONCE:
            sock.sendall(body)
    except OSError as error:
        if error.errno not in _NO_LISTENER:
            raise
        return True
    return False


def _may_repeat(order: Order) -> bool:
    return order.request.method in _IDEMPOTENT


def _answer(wire: Connection, order: Order, data: bytes, *, broken: bool) -> Fetched:
    method = order.request.method or ""
    try:
        head = _head(wire, method, data, order.read)
    except _UnreadError as unread:
        return _by_http_client(wire, method, unread.data)
    content, error = _body(wire, head, order.read)
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers]
    keep = head.keep and error is None and not head.body.rest and not broken
    version = 11 if head.version == b"HTTP/1.1" else 10
    return Fetched(head.status, head.reason.decode("latin-1"), version, headers, content, error, keep)


class _UnreadError(Exception):
    """Bytes that are for http.client to read, together with what follows."""

    def __init__(self, data: bytes) -> None:
        self.data = data


def _head(wire: Connection, method: str, data: bytes, timeout: float | None) -> Head:
    while True:
        try:
            head, rest = read_head(data, method)
        except (ProtocolError, UnusualError):
            raise _UnreadError(data) from None
        if head is not None:
            return head
        if len(rest) < len(data) and rest:
            data = rest  # one that only announces the answer, which may be there already
            continue
        piece = wire.receive(timeout)
        if not piece:
            raise _UnreadError(rest)
        data = rest + piece


def _body(wire: Connection, head: Head, timeout: float | None) -> tuple[bytes, Exception | None]:
    body = head.body
    pieces = []
    try:
        pieces.append(body.feed(head.rest))
        while not body.done:
            piece = wire.receive(timeout)
            if piece:
                pieces.append(body.feed(piece))
            else:
                body.eof()
    except ProtocolError as error:
        return b"".join(pieces), http.client.HTTPException(str(error))
    except OSError as error:
        return b"".join(pieces), error
    return pieces[0] if len(pieces) == 1 else b"".join(pieces), None


# -- what is unusual ---------------------------------------------------------------------------------------


class _Replay(io.RawIOBase):
    """Be the socket http.client reads an answer from, whose first bytes have been read already."""

    def __init__(self, sock: Any, data: bytes) -> None:
        self._sock = sock
        self._data = data

    def makefile(self, *_: Any, **__: Any) -> Any:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._data:
            size = min(len(buffer), len(self._data))
            buffer[:size], self._data = self._data[:size], self._data[size:]
            return size
        read: int = self._sock.recv_into(buffer)
        return read


def _by_http_client(wire: Connection, method: str, data: bytes) -> Fetched:
    """Return the answer as http.client reads it; its connection is not used again."""
    response: Any = http.client.HTTPResponse(_Replay(wire.sock, data), method=method)  # type: ignore[arg-type]
    response.begin()
    content: bytes = b""
    error: Exception | None = None
    try:
        content = response.read()
    except http.client.IncompleteRead as short:
        content, error = short.partial, short
    except (OSError, http.client.HTTPException) as broken:
        error = broken
    headers = [(name, _FOLD.sub(" ", value)) for name, value in response.getheaders()]
    return Fetched(response.status, response.reason, response.version, headers, content, error, keep=False)


# -- errors ------------------------------------------------------------------------------------------------


def _raise_timeout(pool: Any, order: Order, error: OSError) -> NoReturn:
    message = f"Read timed out. (read timeout={order.read})"
    raise urllib3_errors.ReadTimeoutError(pool, order.target, message) from error


def _raise_as_requests(adapter: Any, pool: Any, order: Order, error: Exception) -> NoReturn:
    """Raise what requests makes of an error of the pool's (urllib3 2.8 `urlopen`, requests 2.34 `send`)."""
    told: Exception = error
    if isinstance(error, ssl.SSLError | CertificateError):
        told = urllib3_errors.SSLError(error)
    elif isinstance(error, OSError | http.client.HTTPException):
        told = urllib3_errors.ProtocolError("Connection aborted.", error)
    wrong = requests.exceptions
    kind: type[requests.exceptions.RequestException] = wrong.ConnectionError
    try:
        adapter.max_retries.increment(
            order.request.method, order.target, error=told, _pool=pool, _stacktrace=sys.exc_info()[2]
        )
    except urllib3_errors.MaxRetryError as final:
        told = final
        reason = final.reason
        if isinstance(reason, urllib3_errors.SSLError):
            kind = wrong.SSLError
        elif isinstance(reason, urllib3_errors.ConnectTimeoutError) and not isinstance(
            reason, urllib3_errors.NewConnectionError
        ):
            kind = wrong.ConnectTimeout
    except urllib3_errors.ReadTimeoutError as final:
        told, kind = final, wrong.ReadTimeout
    except urllib3_errors.HTTPError as final:
        told = final
    raise kind(told, request=order.request) from error
