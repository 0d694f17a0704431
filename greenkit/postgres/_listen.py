"""Notifications as an iterator that reconnects when the server goes away."""

from __future__ import annotations

import random
import time
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from greenkit.errors import WaitTimeout
from greenkit.postgres import _driver
from greenkit.postgres._deadline import deadline
from greenkit.wait import Deadline, FdWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Notification", "listen"]

_PING_TIMEOUT = 5.0  # seconds for the server to answer that it is there
_BACKOFF, _LONGEST = 0.1, 5.0  # seconds between attempts to connect, the first and the longest


@dataclass(frozen=True, slots=True)
class Notification:
    """State what a NOTIFY said.

    Attributes:
        channel: The name it was sent to.
        payload: Its text, "" when there was none.
        pid: Process of the server that sent it.
    """

    channel: str
    payload: str
    pid: int


def listen(
    connect: Callable[[], Any],
    *channels: str,
    timeout: float | None = None,
    ping: float = 30.0,
    on_reconnect: Callable[[], object] | None = None,
) -> Iterator[Notification]:
    """Yield what is notified on `channels`, over a connection of its own, until `timeout`.

    A lost connection is made anew, with growing pauses, and listens again. What was sent in
    between is lost, as PostgreSQL keeps none: look for it in `on_reconnect`. A connection taken
    from a pool would keep its slot for as long; give a function that opens one. PgBouncer in
    transaction mode cannot LISTEN: connect to the server itself.

    Args:
        connect: Opens a connection of psycopg2 or psycopg 3.
        channels: Names, as written (they are quoted).
        timeout: Seconds until the iterator ends; None for never.
        ping: Seconds of silence after which the server is asked whether it is still there.
        on_reconnect: Called when a lost connection listens again.

    Raises:
        OperationalError: The driver's: the first connection failed, or a lost one could not be
            made anew before `timeout`.

    Switches: may.
    """
    if not channels:
        msg = "listen() needs the name of at least one channel"
        raise ValueError(msg)
    until = Deadline.after(timeout)
    ear = _Ear(connect, channels)
    try:
        while not until.expired:
            try:
                yield from ear.hear(until, ping)
            except ear.lost as error:  # noqa: PERF203 - once per lost connection
                ear.close()
                _reconnect(ear, until, error)
                if on_reconnect is not None:
                    on_reconnect()
    finally:
        ear.close()


def _reconnect(ear: _Ear, until: Deadline, error: Exception) -> None:
    pause = _BACKOFF
    while True:
        time.sleep(min(pause * random.uniform(0.5, 1.0), until.remaining()))
        if until.expired:
            raise error
        try:
            ear.open()
        except ear.lost as failed:
            error, pause = failed, min(2 * pause, _LONGEST)
        else:
            return


class _Ear:
    """One connection that listens, and what it has heard."""

    def __init__(self, connect: Callable[[], Any], channels: tuple[str, ...]) -> None:
        self._connect, self._channels = connect, channels
        self._heard: deque[Notification] = deque()
        self.open()

    def open(self) -> None:
        self._conn = self._connect()  # perhaps an agent's proxy, which records the queries
        self._raw = _driver.raw(self._conn)
        self._is_2 = _driver.is_psycopg2(self._raw)
        driver = _driver.driver_of(self._raw)
        self._close = driver.close
        # A severed line is an InterfaceError to some calls of the drivers, their common ancestor.
        self.lost: Any = driver.errors
        self._conn.autocommit = True
        if not self._is_2:
            self._conn.add_notify_handler(
                lambda note: self._heard.append(Notification(note.channel, note.payload, note.pid))
            )
        with deadline(_PING_TIMEOUT):
            for channel in self._channels:
                quoted = channel.replace('"', '""')
                self._conn.cursor().execute(f'LISTEN "{quoted}"')

    def hear(self, until: Deadline, ping: float) -> Iterator[Notification]:
        with self._watching() as watch:
            while True:
                self._collect()
                while self._heard:
                    yield self._heard.popleft()
                if until.expired:
                    return
                with suppress(WaitTimeout):
                    watch.wait_read(Deadline.earliest(until, Deadline.after(ping)).timeout())
                    continue
                if not until.expired:
                    self._ping()

    def _ping(self) -> None:
        with deadline(_PING_TIMEOUT):
            self._conn.cursor().execute("SELECT 1")

    def close(self) -> None:
        with suppress(self.lost):
            self._close(self._raw)

    @contextmanager
    def _watching(self) -> Iterator[FdWatch]:
        watch = FdWatch(self._raw.fileno())
        try:
            yield watch
        finally:
            watch.close()

    def _collect(self) -> None:
        conn = self._raw
        if self._is_2:
            conn.poll()
            while conn.notifies:
                note = conn.notifies.pop(0)
                self._heard.append(Notification(note.channel, note.payload, note.pid))
            return
        conn.pgconn.consume_input()
        while (note := conn.pgconn.notifies()) is not None:
            words = note.relname.decode(), note.extra.decode()
            self._heard.append(Notification(*words, note.be_pid))
