"""Adapt urllib3's pools to many greenlets: in order, bounded, and whole whatever happens to a call.

Three of urllib3's habits (2.8) cost too much here. A bounded pool waits for a free connection
without a bound, in no order. Before each call it asks the connection through the hub whether it is
still open. And a response that is dropped unread closes its connection but never gives back its
place, so that a bounded pool shrinks until no call gets through.
"""

from __future__ import annotations

import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

from gevent import socket
from urllib3 import poolmanager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from greenkit.http._abandoned import Reaper
from greenkit.http._fair_hub import yield_if_due
from greenkit.http._look import native_look
from greenkit.http._slots import Slots

if TYPE_CHECKING:
    from urllib3._base_connection import BaseHTTPConnection

__all__ = ["OUR_CONNECTIONS", "use_our_pools"]


def use_our_pools(manager: Any, *, wait: float) -> None:
    """Have a `PoolManager` make pools of our classes.

    Args:
        manager: One just made.
        wait: Seconds a call may wait for a free connection.

    Switches: never.
    """
    if manager.pool_classes_by_scheme is not poolmanager.pool_classes_by_scheme:
        return  # a SOCKS proxy: its pools are of classes of their own
    manager.pool_classes_by_scheme = {
        "http": partial(_PlainPool, pool_wait=wait),
        "https": partial(_TLSPool, pool_wait=wait),
    }


_is_readable = native_look()


class _PlainConnection(HTTPConnection):
    """Look at an idle connection without a trip through the hub; let others run before what takes long."""

    @property
    def is_connected(self) -> bool:
        # An idle connection has nothing to say: what can be read is its end.
        return self.sock is not None and not _is_readable(self.sock)

    def _new_conn(self) -> Any:
        sock: Any = super()._new_conn()
        try:
            yield_if_due()  # all calls that waited for one look-up would otherwise shake hands in one round
        except BaseException:
            sock.close()
            raise
        return sock

    def getresponse(self) -> Any:
        sock = self.sock
        # What is decrypted already (also by TLS within TLS, a class of its own) makes no socket readable.
        if isinstance(sock, socket.socket) and sock.fileno() >= 0 and not _decrypted(sock):
            socket.wait_read(sock.fileno(), self.timeout)
            yield_if_due()
        return super().getresponse()


def _decrypted(sock: Any) -> int:
    return sock.pending() if hasattr(sock, "pending") else 0


class _TLSConnection(_PlainConnection, HTTPSConnection):
    pass


class _ConnectionClass:
    """Be a pool's `ConnectionCls`: ours, unless another was put in urllib3's pools, as VCR does."""

    def __init__(self, ours: type[Any], pool: type[Any]) -> None:
        self._ours = ours
        self._pool = pool
        self._theirs = pool.ConnectionCls

    def __get__(self, pool: object, kind: object) -> type[Any]:
        now: type[Any] = self._pool.ConnectionCls
        return self._ours if now is self._theirs else now


OUR_CONNECTIONS = frozenset({_PlainConnection, _TLSConnection})


class _PlainPool(HTTPConnectionPool):
    """Wait for a free connection in order, and not for ever; take back what is abandoned."""

    ConnectionCls = _ConnectionClass(_PlainConnection, HTTPConnectionPool)
    QueueCls = Slots  # type: ignore[assignment]  # urllib3 calls get, put and qsize only

    def __init__(self, *args: Any, pool_wait: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pool_wait = pool_wait
        # By the id of a connection that is out with a response: that response, watched.
        self._lent: dict[int, weakref.ref[Any]] = {}
        assert self.pool is not None
        self._size = self.pool.qsize()
        self._reaper = Reaper()

    def urlopen(self, *args: Any, **kwargs: Any) -> Any:
        """Send, and note which response the connection is out with."""
        response: Any = super().urlopen(*args, **kwargs)
        connection = getattr(response, "_connection", None)
        if connection is not None:
            self._lent[id(connection)] = weakref.ref(response, partial(self._abandoned, connection))
        return response

    def _abandoned(self, connection: BaseHTTPConnection, response: weakref.ref[Any]) -> None:
        """Take back the place of a response that was dropped before it was read to its end or closed."""
        if self._lent.get(id(connection)) is response:
            connection.close()  # the rest of the answer is still on its way
            self._put_conn(connection)

    def _get_conn(self, timeout: float | None = None) -> BaseHTTPConnection:
        if len(self._lent) >= self._size:
            self._reaper.look(self._lent.__len__)
        return super()._get_conn(self._pool_wait if timeout is None else timeout)

    def _put_conn(self, conn: BaseHTTPConnection | None) -> None:
        self._lent.pop(id(conn), None)
        super()._put_conn(conn)


class _TLSPool(_PlainPool, HTTPSConnectionPool):
    """Do likewise, over TLS."""

    ConnectionCls = _ConnectionClass(_TLSConnection, HTTPSConnectionPool)
