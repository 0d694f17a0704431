"""Connections to one origin: opened by need, handed out in order, used last first, never more than so many.

A connection belongs to the hub it was opened in, and to the process. Who takes one holds a slot of a
`WaitLine` until the answer is read or dropped, so nothing here is looked through and every step costs the
same however many there are.
"""

from __future__ import annotations

import os
import socket
import ssl
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from gevent import socket as green

from greenkit._clock import MONOTONIC
from greenkit.http._abandoned import Reaper
from greenkit.http._fair_hub import yield_if_due
from greenkit.http._look import native_look
from greenkit.wait import WaitLine, hub_here

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Connection", "Origin", "is_timeout"]

_is_readable = native_look()
_PIECE = 65_536


class Connection:
    """Send and receive over one socket.

    Attributes:
        sock: The socket.
        since: Clock reading at which it was put back.
        fresh: Nothing was sent over it yet.
    """

    __slots__ = ("fresh", "since", "sock")

    def __init__(self, sock: Any) -> None:
        self.sock = sock
        self.since = 0.0
        self.fresh = True

    def send(self, data: bytes, timeout: float | None) -> None:
        """Send all of `data`. Switches: may."""
        self.sock.settimeout(timeout)
        self.sock.sendall(data)

    def receive(self, timeout: float | None) -> bytes:
        """Return what comes next, empty at the end. Switches: may."""
        sock = self.sock
        # Waiting first spares TLS a read in vain; what is decrypted already makes no socket readable.
        if isinstance(sock, green.socket) and not (isinstance(sock, ssl.SSLSocket) and sock.pending()):
            green.wait_read(sock.fileno(), timeout)
            yield_if_due()
        sock.settimeout(timeout)
        data: bytes = sock.recv(_PIECE)
        return data

    def close(self) -> None:
        """Close it. Switches: never."""
        self.sock.close()


class Origin:
    """Hand out the connections to one scheme, host and port.

    Args:
        scheme: "http" or "https".
        host: Name or address.
        port: Number.
        size: Connections at once.
        context: For https.
        idle_for: Seconds one is kept unused.

    Attributes:
        streaming: Answers that are not read to their end.
    """

    __slots__ = (
        "__weakref__", "_context", "_host", "_idle", "_idle_for", "_idle_here", "_line", "_port", "_reaper",
        "_size", "pid", "streaming",
    )  # fmt: skip

    def __init__(
        self, scheme: str, host: str, port: int, *, size: int, context: ssl.SSLContext, idle_for: float
    ) -> None:
        self._host = host
        self._port = port
        self._size = size
        self._context = context if scheme == "https" else None
        self._idle_for = idle_for
        self._line = WaitLine(size, name=f"connections to {host}:{port}")
        self._idle: WeakKeyDictionary[Any, list[Connection]] = WeakKeyDictionary()
        self._idle_here: list[Connection] = []  # of threads without a hub
        self._reaper = Reaper()
        self.pid = os.getpid()
        self.streaming = 0

    def __repr__(self) -> str:
        return f"<Origin {self._host}:{self._port}, {self._line!r}>"

    def take(self, timeout: float | None) -> None:
        """Take a slot, which `give_back()` or `drop()` gives back.

        Raises:
            WaitTimeout: None came free in time.

        Switches: may.
        """
        if self._line.acquire_nowait():
            return
        if self.streaming >= self._size:
            self._reaper.look(lambda: self.streaming)
        self._line.acquire(timeout=timeout)

    def idle(self) -> Connection | None:
        """Return the connection used last that is still open, for who has a slot. Switches: never."""
        idle = self._of_hub()
        while idle:
            try:
                connection = idle.pop()
            except IndexError:  # another thread without a hub was faster
                return None
            if MONOTONIC.now() - connection.since < self._idle_for and not _is_readable(connection.sock):
                return connection
            connection.close()
        return None

    def connect(self, timeout: float | None) -> Connection:
        """Open a connection, for who has a slot. Switches: may.

        Raises:
            OSError: It cannot be opened, or not trusted.
        """
        sock: Any = socket.create_connection((self._host, self._port), timeout)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            yield_if_due()  # all calls that waited for one look-up would otherwise shake hands in one round
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_hostname=self._host)
        except BaseException:
            sock.close()
            raise
        return Connection(sock)

    def give_back(self, connection: Connection) -> None:
        """Put a connection back whose answer was read to its end, and its slot. Switches: never."""
        connection.since, connection.fresh = MONOTONIC.now(), False
        self._of_hub().append(connection)
        self._line.release()

    def drop(self, connection: Connection | None) -> None:
        """Close a connection that is no use, and give its slot back. Switches: never."""
        try:
            if connection is not None:
                connection.close()
        finally:
            self._line.release()

    def close(self) -> None:
        """Close the idle ones of this thread. Switches: never."""
        idle = self._of_hub()
        while idle:
            idle.pop().close()

    def _of_hub(self) -> list[Connection]:
        hub = hub_here()
        if hub is None:
            return self._idle_here
        try:
            return self._idle[hub]
        except KeyError:
            return self._idle.setdefault(hub, [])


def is_timeout(error: BaseException) -> bool:
    """Tell whether a socket's error says that its time was over.

    Switches: never.
    """
    return isinstance(error, TimeoutError) or (isinstance(error, ssl.SSLError) and "timed out" in str(error))


def network_info(connection: Connection, name: str) -> Any:
    """Return what httpx's `network_stream` tells of a connection by `name`.

    Switches: never.
    """
    sock = connection.sock
    known: Mapping[str, Any] = {
        "socket": lambda: sock,
        "ssl_object": lambda: sock if isinstance(sock, ssl.SSLSocket) else None,
        "client_addr": sock.getsockname,
        "server_addr": sock.getpeername,
        "is_readable": lambda: _is_readable(sock),
    }
    found = known.get(name)
    return None if found is None else found()
