"""psycopg 3 in a patched process.

Without this it waits in C unless `select` was patched before its import, and otherwise wakes ten times a
second; it has no deadline for a query; and it cancels an interrupted query only for `KeyboardInterrupt`, so
a killed greenlet leaves its connection in the middle of one. Replaced are `Connection.wait`, `close` and
`cancel`, the module's `wait` and `wait_conn`, the connecting generator, and the look-up of names.
"""

from __future__ import annotations

import functools
import inspect
import os
import select
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import gevent
import psycopg
import psycopg.generators
import psycopg.waiting
from gevent import get_hub, monkey
from greenlet import getcurrent
from psycopg import _conninfo_attempts
from psycopg.conninfo import timeout_from_conninfo
from psycopg.pq import ConnStatus, TransactionStatus

from greenkit.errors import WaitTimeout
from greenkit.postgres import _cancel, _closing, _libpq
from greenkit.postgres._connect_errors import without_location
from greenkit.postgres._deadline import current, for_query, lifted, passed
from greenkit.postgres._errors import QueryTimeout, for_driver
from greenkit.wait import Deadline, FdWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

__all__ = ["install", "is_known", "uninstall"]

_ACTIVE = TransactionStatus.ACTIVE
_READ, _WRITE = 1, 2  # psycopg.waiting.Wait and Ready
# Of the grace, what the server has to take a cancel and answer; the rest is for seeing it off.
_TO_ANSWER = 0.8 * _closing.GRACE
_Timeout = for_driver(QueryTimeout, psycopg.OperationalError)
_PsycopgTimeout: Any = getattr(psycopg.errors, "_WaitTimeout", TimeoutError)
_CancelTimeout: Any = getattr(psycopg.errors, "CancellationTimeout", psycopg.OperationalError)
_POLLED_CANCEL = 170000  # libpq's version from which on psycopg polls a cancel
_before: dict[tuple[Any, str], Any] = {}


def is_known() -> bool:
    """Tell whether this psycopg has what we replace, with the parameters we know."""
    expected = (
        (getattr(psycopg.Connection, "wait", None), {"self", "gen", "interval"}, {"timeout"}),
        (getattr(psycopg.waiting, "wait", None), {"gen", "fileno", "interval"}, {"timeout"}),
        (getattr(psycopg.waiting, "wait_conn", None), {"gen", "interval"}, {"timeout"}),
        (getattr(psycopg.Connection, "cancel_safe", None), {"self", "timeout"}, {"timeout"}),
    )
    for function, needed, known in expected:
        try:
            names = set(inspect.signature(function).parameters) if function else set()
        except ValueError:  # the C function tells nothing of itself
            continue
        if not needed <= names <= needed | known:
            return False
    return True


def install() -> None:
    """Have psycopg 3 wait in the hub, keep deadlines, and cancel what is interrupted.

    Of a psycopg whose waiting has changed nothing is replaced but a wait in C (GK305 says so).
    """
    if _before:
        return
    waiting = psycopg.waiting
    if not is_known():
        if waiting.wait is getattr(waiting, "wait_c", None):
            _set(waiting, "wait", waiting.wait_poll)
        return
    _set(waiting, "wait", _wait)
    _set(psycopg.Connection, "wait", _wait_on)
    _set(psycopg.Connection, "close", _waking(psycopg.Connection.close))
    _set(psycopg.Connection, "cancel", _cancel_query)
    _set(psycopg.Connection, "cancel_safe", _cancel_query)
    _set(waiting, "wait_conn", _careful_connect(waiting.wait_conn))
    if hasattr(psycopg.generators, "_connect"):
        _set(psycopg.generators, "connect", _connect_verbosely)
    if hasattr(_conninfo_attempts, "_resolve_hostnames"):
        _set(_conninfo_attempts, "_resolve_hostnames", _timely(_conninfo_attempts._resolve_hostnames))


def uninstall() -> None:
    """Put back what `install()` found."""
    while _before:
        (module, name), value = _before.popitem()
        setattr(module, name, value)


def _set(module: Any, name: str, value: Any) -> None:
    _before[module, name] = getattr(module, name)
    setattr(module, name, value)


def _wait_on(self: Any, gen: Any, interval: float = 0.0, timeout: float | None = None) -> Any:
    """Be `Connection.wait`: with the deadline in force, and an idle connection when interrupted."""
    own = Deadline.after(timeout)
    limit = self.__dict__.get("gk_query_timeout")
    try:
        return _drive(gen, _watch(self), Deadline.earliest(for_query(limit), own))
    except psycopg.Error:
        raise
    except OSError as closed:
        raise psycopg.OperationalError(f"the connection was closed during its query: {closed}") from None
    except WaitTimeout:
        if own.expired:
            raise _PsycopgTimeout("wait timeout expired") from None
        _stop(self, gen)
        raise _Timeout(passed(limit)) from None
    except BaseException:
        _stop(self, gen)
        raise
    finally:
        if "gk_cancel" in self.__dict__:
            _closing.await_cancel(self)


def _wait(gen: Any, fileno: int, interval: float = 0.0, timeout: float | None = None) -> Any:
    """Be `psycopg.waiting.wait`, for those who call it themselves."""
    watch = FdWatch(fileno)
    try:
        return _drive(gen, watch, Deadline.after(timeout))
    except WaitTimeout:
        raise _PsycopgTimeout("wait timeout expired") from None
    finally:
        watch.close()


def _drive(gen: Generator[int, int, Any], watch: FdWatch, until: Deadline) -> Any:
    try:
        wanted = next(gen)
        while True:
            if wanted == _READ:
                ready = _wait_to_read(watch, until)
            else:
                ready = _ready_now(watch.fd, wanted) or _wait_to_write(watch, wanted, until)
            wanted = gen.send(ready)
    except StopIteration as done:
        return done.value


def _ready_now(fd: int, wanted: int) -> int:
    # A socket can nearly always be written to: one look is cheaper than a turn of the hub.
    native = monkey.get_original("select", "poll")()
    wishes = (select.POLLOUT if wanted & _WRITE else 0) | (select.POLLIN if wanted & _READ else 0)
    native.register(fd, wishes)
    found = native.poll(0)
    seen = found[0][1] if found else 0
    # What is broken counts as ready: psycopg asks libpq, which says why.
    broken = seen & ~(select.POLLIN | select.POLLOUT)
    return (_READ if seen & select.POLLIN else 0) | (_WRITE if seen & select.POLLOUT or broken else 0)


def _wait_to_read(watch: FdWatch, until: Deadline) -> int:
    try:
        watch.wait_read(until.timeout())
    except WaitTimeout:
        # With no time left the timer is first; what has come counts all the same.
        if not _ready_now(watch.fd, _READ):
            raise
    return _READ


def _wait_to_write(watch: FdWatch, wanted: int, until: Deadline) -> int:
    (watch.wait_write if wanted == _WRITE else watch.wait_either)(until.timeout())
    return _ready_now(watch.fd, wanted)


def _watch(conn: Any) -> FdWatch:
    """Return the connection's own watch; a new one in another thread or a forked child."""
    watch: FdWatch | None = conn.__dict__.get("gk_watch")
    fd = conn.pgconn.socket
    if watch is None or watch.fd != fd or watch.hub is not get_hub():
        watch = conn.gk_watch = FdWatch(fd)
    return watch


def _waking(close: Callable[[Any], None]) -> Callable[[Any], None]:
    """Return `Connection.close` that ends the wait of a greenlet in a query of that connection."""

    @functools.wraps(close)
    def close_and_wake(self: Any) -> None:
        watch: FdWatch | None = self.__dict__.pop("gk_watch", None)
        if watch is not None and watch.hub is get_hub():
            watch.close()
        close(self)

    return close_and_wake


def _stop(conn: Any, gen: Any) -> None:
    """Cancel in the server and take its answer; close the connection when there is none."""
    if conn.pgconn.status == ConnStatus.OK and conn.pgconn.transaction_status == _ACTIVE:
        grace = Deadline.after(_closing.GRACE)
        with suppress(gevent.Timeout):  # the first interrupt counts, unless a kill follows
            _closing.run_uninterrupted(lambda: _end_query(conn, gen, grace), grace)
        if getcurrent() is get_hub():
            conn.pgconn.finish()  # the hub cannot wait for the server's answer


def _end_query(conn: Any, gen: Any, grace: Deadline) -> None:
    until = Deadline.after(_TO_ANSWER)
    with suppress(WaitTimeout):
        delivered = False
        with lifted(), suppress(psycopg.Error):
            _deliver(conn, until.remaining())
            delivered = True
        with suppress(psycopg.Error):
            _drive(gen, _watch(conn), until)
        # Given up half-way, the server may carry a cancel out yet, on the next query.
        if delivered:
            return  # what a stream or a pipeline has still to fetch, psycopg fetches on its way out
    if conn.pgconn.status != ConnStatus.OK:
        return
    line = os.dup(conn.pgconn.socket)
    try:
        conn.pgconn.finish()
        _closing.wait_for_end(line, grace, send_terminate=False)
    finally:
        os.close(line)


def _cancel_query(self: Any, *, timeout: float = 30.0) -> None:
    """Be `Connection.cancel` and `cancel_safe`, whose request the greenlet in the query waits for.

    In a greenlet of its own: a canceller that is killed leaves its request on the way.
    """
    delivery = self.__dict__.get("gk_cancel")
    if delivery is None:
        delivery = self.gk_cancel = gevent.spawn(_tried, self, timeout)
        delivery.rawlink(lambda _: self.__dict__.pop("gk_cancel", None))
    delivery.join()
    if isinstance(delivery.value, psycopg.Error):
        raise delivery.value


def _tried(conn: Any, timeout: float) -> psycopg.Error | None:
    try:
        _deliver(conn, timeout)
    except psycopg.Error as error:
        return error
    return None


def _deliver(conn: Any, timeout: float) -> None:
    """Deliver one cancel request, polled; in a thread on a libpq below 17, which would block the process."""
    if psycopg.pq.version() >= _POLLED_CANCEL:
        _before[psycopg.Connection, "cancel_safe"](conn, timeout=timeout)
    elif conn._should_cancel() and not _cancel.prepare(conn.pgconn.pgconn_ptr, _library())(timeout):
        raise _CancelTimeout("the cancel request could not be delivered in time")


def _library() -> str:
    """Return the path of what links libpq: psycopg's extension module, or libpq itself."""
    if psycopg.pq.__impl__ == "python":
        from psycopg.pq import _pq_ctypes  # loaded already, by psycopg itself

        return str(_pq_ctypes.pq._name)  # type: ignore[attr-defined]
    return str(sys.modules[psycopg.pq.PGconn.__module__].__file__)


def _careful_connect(wait_conn: Callable[..., Any]) -> Callable[..., Any]:
    """Return `wait_conn` with our deadline; interrupted, it leaves no half-open connection."""

    @functools.wraps(wait_conn)
    def wait_until(gen: Any, *args: Any, **options: Any) -> Any:
        seen: list[int] = []
        # Not `with gevent.Timeout(...)`: psycopg's own time-outs are its callers' business.
        timer = gevent.Timeout.start_new(current().timeout())
        try:
            return wait_conn(_noting(gen, seen), *args, **options)
        except (psycopg.Error, OSError):
            raise
        except BaseException as interrupt:
            # psycopg closes the socket when the last traceback is forgotten: too late for a bound.
            # Only after an interrupt: after psycopg's own errors the number may be another file's already.
            if seen:
                _closing.close_half_open(seen[-1])
            if interrupt is timer:
                raise _Timeout("the connect passed its deadline") from None
            raise
        finally:
            timer.close()

    return wait_until


def _connect_verbosely(*args: Any, **options: Any) -> Generator[Any, Any, Any]:
    """Be `generators.connect`, whose refusals name their SQLSTATE, which psycopg has only of queries."""
    gen = psycopg.generators._connect(*args, **options)  # in Python: that in C keeps its connection to itself
    item = next(gen)
    pgconn = inspect.getgeneratorlocals(gen).get("conn")
    set_verbosity = _libpq.quick(_library()).PQsetErrorVerbosity
    if pgconn is not None:
        set_verbosity(pgconn.pgconn_ptr, _libpq.VERBOSE)
    try:
        while True:
            item = gen.send((yield item))
    except StopIteration as done:
        if pgconn is not None:
            set_verbosity(pgconn.pgconn_ptr, _libpq.DEFAULT)
        return done.value
    except psycopg.OperationalError as error:
        error.args = (without_location(str(error)), *error.args[1:])
        raise


def _timely(resolve: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return psycopg's look-up of one host with an end: a name server's patience is not ours."""

    @functools.wraps(resolve)
    def resolve_until(params: Any) -> Any:
        until = Deadline.earliest(current(), Deadline.after(timeout_from_conninfo(params)))
        timer = gevent.Timeout.start_new(until.timeout())
        try:
            return resolve(params)
        except gevent.Timeout as ended:
            if ended is not timer:
                raise
            msg = f"the name of host {params.get('host')!r} was not resolved within the deadline"
            if current().expired:
                raise _Timeout(msg) from None
            raise OSError(msg) from None  # psycopg goes on to the next host
        finally:
            timer.close()

    return resolve_until


def _noting(gen: Generator[Any, Any, Any], seen: list[int]) -> Generator[Any, Any, Any]:
    """Pass a connecting generator through, noting the descriptors it waits on."""
    try:
        item = next(gen)
        while True:
            seen.append(item[0])
            item = gen.send((yield item))
    except StopIteration as done:
        return done.value
