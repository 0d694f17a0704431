"""The consumer's AMQP connection, reading and writing in bulk.

py-amqp asks the socket for each part of each frame and sends each frame by itself: a dozen system
calls for one task. Worse, a frame that has come only in part it reads in a loop which never waits
(py-amqp 5.4, `TCPTransport._read` at a time-out of 0), so one large message over a slow network
stops every task. `BulkAmqp` reads what there is, hands over the frames that are whole, and joins
what one iteration of the loop writes.
"""

from __future__ import annotations

from contextlib import contextmanager
from struct import unpack_from
from typing import TYPE_CHECKING, Any

from amqp.transport import SSLTransport, TCPTransport

if TYPE_CHECKING:
    from collections.abc import Iterator

    from greenkit.celery._event_loop import GreenHub

__all__ = ["BulkAmqp"]

_BULK = 16 * 1024
# Of one iteration, three to a message: acks, timers and tasks run between two of them.
_FRAMES = 30
_HEAD = 7  # type, channel, size; an octet ends the frame
# Nothing else, heartbeats included, is done for the broker while one waits for its answer.
_ANSWER_TIMEOUT = 10.0


class BulkAmqp:
    """Read and write for the greenlet that runs `hub`, on one connection."""

    __slots__ = ("_connection", "_hub", "_out", "_receive", "_send", "_sending", "_wire")

    def __init__(self, hub: GreenHub, connection: Any) -> None:
        self._hub = hub
        self._connection = connection
        self._wire = wire = connection.transport
        self._receive = wire._quick_recv
        self._send = wire.sock.sendall
        self._out = bytearray()
        self._sending = False
        wire._quick_recv = self.receive
        wire._write = self.write
        hub.add_reader(wire.sock, self.on_readable)

    @classmethod
    def attach(cls, consumer: Any) -> bool:
        """Take over the connection of `consumer`; return False if its broker speaks something else."""
        connection = consumer.connection.connection
        wire = getattr(connection, "transport", None)
        fits = isinstance(wire, (TCPTransport, SSLTransport)) and hasattr(wire, "_read_buffer")
        if fits:
            cls(consumer.hub, connection)
        return fits

    def write(self, data: Any) -> None:
        """Have `data` sent at the end of this iteration, or before a caller waits for an answer.

        Switches: never.
        """
        if not self._out:
            self._hub.call_soon(self.flush)
        self._out += data  # a copy: py-amqp hands over a view of the one buffer it has

    def flush(self) -> None:
        """Send what was written.

        Switches: if the socket takes no more.
        """
        if self._sending:
            return  # the greenlet that sends goes on until nothing is left
        self._sending = True
        try:
            while self._out and self._wire.sock is not None:
                data, self._out = self._out, bytearray()
                with self._bounded():
                    self._send(data)
        finally:
            self._sending = False

    def receive(self, size: int) -> bytes:
        """Return at most `size` bytes, for py-amqp, which waits for an answer."""
        self.flush()
        with self._bounded():
            data: bytes = self._receive(size)
        return data

    @contextmanager
    def _bounded(self) -> Iterator[None]:
        """Bound the wait for a broker that may be frozen; py-amqp has no bound."""
        sock = self._wire.sock
        if sock.gettimeout() is not None:
            yield
            return
        sock.settimeout(_ANSWER_TIMEOUT)
        try:
            yield
        finally:
            sock.settimeout(None)

    def on_readable(self) -> None:
        """Take what the socket has; hand over the frames that are whole, some of them now."""
        connection = self._connection
        if not connection.connected:
            return
        if not self._whole():
            self._fill()
        try:
            for _ in range(_FRAMES):
                if not self._whole():
                    return
                connection.blocking_read(0)
        finally:
            # The poller knows nothing of what has been read already.
            if connection.connected and (self._whole() or self._decrypted()):
                self._hub.call_soon(self.on_readable)

    def _fill(self) -> None:
        wire = self._wire
        try:
            with wire.having_timeout(0):
                data = self._receive(_BULK)
        except TimeoutError:
            return
        wire._read_buffer += data
        if not data:
            self._connection.blocking_read(0)  # says in py-amqp's way that the server has gone

    def _whole(self) -> bool:
        have = self._wire._read_buffer
        return len(have) > _HEAD and len(have) > _HEAD + unpack_from(">I", have, 3)[0]

    def _decrypted(self) -> bool:
        pending = getattr(self._wire.sock, "pending", None)
        return pending is not None and pending() > 0
