"""Close a connection and wait until its backend has exited.

Closing a socket takes no time; the backend notices later. A connection opened in between would exceed the
pool's bound. So the terminate message is sent, then the end of the stream is awaited (with a bound): by
then the server process has left `pg_stat_activity`.
"""

from __future__ import annotations

import os
import select
from _socket import SHUT_WR, socket  # the C class: gevent's would wait in its own way
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import gevent
from gevent import monkey
from greenlet import getcurrent

from greenkit.errors import WaitTimeout
from greenkit.wait import Deadline, FdWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "GRACE",
    "await_cancel",
    "close_and_wait",
    "close_half_open",
    "counted",
    "join_uninterrupted",
    "poller",
    "run_uninterrupted",
    "shut_down",
    "wait_for_end",
]

GRACE = 1.0
"""Seconds a server gets to answer a cancel or a goodbye; then it is left behind."""

_LOOK_INTERVAL = 0.005  # seconds between looks at what another thread does
_counted: ContextVar[bool] = ContextVar("greenkit.postgres.counted", default=False)
_TERMINATE = b"X\x00\x00\x00\x04"  # frontend message "Terminate", protocol 3.0


def poller(fd: int) -> Any:
    """Return a native poll object for `fd`; gevent's would make an event and a watcher per look."""
    native = monkey.get_original("select", "poll")()
    native.register(fd, select.POLLIN)
    return native


def shut_down(fd: int) -> None:
    """Shut the socket down under the greenlet that uses it, without touching the driver's object.

    The only thing that may be done to a connection another greenlet is in: psycopg2's methods
    would wait for a native lock that greenlet holds, and stop the process.
    """
    line = _own(fd)
    try:
        line.shutdown(2)
    except OSError:
        pass  # the other end was faster
    finally:
        line.close()


def close_and_wait(fd: int, *, send_terminate: bool, cooperative: bool, grace: float = GRACE) -> None:
    """End the conversation on `fd` and return when the server has ended it too.

    Args:
        fd: The connection's descriptor or a duplicate; it stays open.
        send_terminate: Send the protocol's farewell; not when the line is encrypted or the driver
            has sent it already.
        cooperative: Wait in the hub; else in a native poll.
        grace: Seconds to wait at the most.
    """
    until = Deadline.after(grace)
    if cooperative and getcurrent() is gevent.get_hub():
        gevent.spawn(_wait_and_close, os.dup(fd), send_terminate=send_terminate)
    elif cooperative:
        run_uninterrupted(lambda: wait_for_end(fd, until, send_terminate=send_terminate), until)
    else:
        wait_for_end(fd, until, send_terminate=send_terminate, cooperative=False)


@contextmanager
def counted() -> Iterator[None]:
    """Have connects inside the block that are given up count until the server has ended them."""
    token = _counted.set(True)
    try:
        yield
    finally:
        _counted.reset(token)


def close_half_open(fd: int) -> None:
    """Hang up on a server that did not let us in; wait for its end only where connections are counted.

    Args:
        fd: The half-made connection's descriptor; it stays open.
    """
    if _counted.get():
        close_and_wait(fd, send_terminate=False, cooperative=True, grace=GRACE)
    else:
        gevent.spawn(_wait_and_close, os.dup(fd), send_terminate=False)


def _wait_and_close(fd: int, *, send_terminate: bool) -> None:
    try:
        wait_for_end(fd, Deadline.after(GRACE), send_terminate=send_terminate)
    finally:
        os.close(fd)


def wait_for_end(fd: int, until: Deadline, *, send_terminate: bool, cooperative: bool = True) -> None:
    """Do what `close_and_wait()` does, in a greenlet that is not interrupted."""
    line = _own(fd)
    try:
        line.setblocking(False)
        if send_terminate:
            line.send(_TERMINATE)
        line.shutdown(SHUT_WR)
        _read_to_end(line, until, cooperative=cooperative)
    except (OSError, WaitTimeout):
        pass  # the server is gone or does not answer
    finally:
        line.close()


def run_uninterrupted(clean_up: Callable[[], object], until: Deadline) -> None:
    """Run `clean_up` to its end, or to `until`, whatever interrupts the caller meanwhile.

    A slot is given back when this returns: cut short by a second kill, there would be a server
    process more than slots. The interrupt is raised then; of several a kill, or else the last.

    In the hub (a finalizer called by the collector) nobody can wait: `clean_up` is not run there, and the
    caller, whose clean-up has not ended, closes the connection as it does when the server is deaf.
    """
    if getcurrent() is gevent.get_hub():
        return
    join_uninterrupted(gevent.spawn(clean_up), until)


def join_uninterrupted(worker: gevent.Greenlet, until: Deadline) -> None:
    """Wait for the end of `worker`, or for `until`, whatever interrupts the caller; raise that afterwards."""
    if getcurrent() is gevent.get_hub():
        return  # a join() would fail at once, again and again until the deadline, with all greenlets frozen
    interrupt: BaseException | None = None
    while not (worker.ready() or until.expired):
        try:
            if worker.parent is gevent.get_hub():
                worker.join(timeout=until.timeout())
            else:
                gevent.sleep(_LOOK_INTERVAL)  # its end cannot wake a greenlet of another thread
        except BaseException as error:  # noqa: PERF203 - one round, unless interrupted
            if not isinstance(interrupt, gevent.GreenletExit):
                interrupt = error
    if interrupt is not None:
        raise interrupt


def await_cancel(conn: Any) -> bool:
    """Wait until no cancel that somebody sent to `conn` is under way, or for `GRACE`; tell whether none is.

    The server may carry it out at any moment until then, and the next query is not what it was meant for.
    """
    delivery: gevent.Greenlet | None = getattr(conn, "gk_cancel", None)
    if delivery is None:
        return True
    join_uninterrupted(delivery, Deadline.after(GRACE))
    return bool(delivery.ready())


def _own(fd: int) -> socket:
    return socket(fileno=os.dup(fd))


def _read_to_end(line: socket, until: Deadline, *, cooperative: bool) -> None:
    watch = FdWatch(line.fileno()) if cooperative else None
    try:
        while not until.expired:
            if watch is not None:
                watch.wait_read(until.timeout())
            elif not poller(line.fileno()).poll(until.remaining() * 1000):
                return
            if not line.recv(65536):
                return
    finally:
        if watch is not None:
            watch.close()
