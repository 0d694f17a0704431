"""Cancel a query in the server without blocking this process.

psycopg2's own `cancel()` connects and reads with the GIL held: behind a dead network it stops every
greenlet and every thread. libpq 17 has a cancel that can be polled. An older libpq has only the blocking
call, made through ctypes (which releases the GIL) in the hub's thread pool.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

from gevent import get_hub

from greenkit.errors import WaitTimeout
from greenkit.postgres import _libpq
from greenkit.wait import Deadline, FdWatch

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["prepare"]

_FAILED, _READING, _OK = 0, 1, 3  # libpq's PostgresPollingStatusType


def prepare(pgconn: int, library: str) -> Callable[[float], bool]:
    """Return a function that delivers one cancel request and tells whether it was delivered.

    Everything the request needs is copied now: the function may run after the connection is
    closed. It takes the seconds it may last. Call it once, or the copy is never freed.

    Args:
        pgconn: Address of libpq's `PGconn`, as in psycopg2's `connection.pgconn_ptr`.
        library: Path of the extension module that links libpq.
    """
    libpq = _libpq.blocking(library)
    if hasattr(libpq, "PQcancelCreate"):
        request = libpq.PQcancelCreate(pgconn)
        return lambda timeout: _deliver_polled(libpq, request, timeout)
    request = libpq.PQgetCancel(pgconn)
    return lambda timeout: _deliver_in_thread(libpq, request, timeout)


def _deliver_polled(libpq: Any, request: int, timeout: float) -> bool:
    until = Deadline.after(timeout)
    try:
        if not libpq.PQcancelStart(request):
            return False
        while (state := libpq.PQcancelPoll(request)) not in (_OK, _FAILED):
            # A fresh watch each time: libpq changes the descriptor when it tries the next address.
            watch = FdWatch(libpq.PQcancelSocket(request))
            try:
                (watch.wait_read if state == _READING else watch.wait_write)(until.timeout())
            finally:
                watch.close()
        return bool(state == _OK)
    except WaitTimeout:
        return False
    finally:
        libpq.PQcancelFinish(request)


def _deliver_in_thread(libpq: Any, request: int, timeout: float) -> bool:
    def send() -> bool:
        why = ctypes.create_string_buffer(256)
        try:
            return bool(libpq.PQcancel(request, why, len(why)))
        finally:
            libpq.PQfreeCancel(request)

    # The thread frees the request, so it may outlive our patience.
    answer = get_hub().threadpool.spawn(send)
    answer.wait(timeout)
    return bool(answer.ready() and answer.successful() and answer.value)
