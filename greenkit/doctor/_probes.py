"""The calls an active probe makes: each waits about `WAIT` seconds in a process that is patched.

Looked up when called, so that what is measured is what the program would call. Nothing answers on
the other side: each call waits for its own timeout. Imported only by a running probe: it loads
everything gevent patches.
"""

from __future__ import annotations

import logging
import os
import queue
import select
import selectors
import socket
import ssl
import subprocess
import threading
import time
from concurrent import futures
from contextlib import closing, contextmanager

import gevent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["PROBES", "WAIT", "silent_server"]

WAIT = 0.06
"""Seconds each call waits; long beside a tick, short beside a person's patience."""


def _event() -> None:
    threading.Event().wait(WAIT)


def _condition() -> None:
    condition = threading.Condition()
    with condition:
        condition.wait(WAIT)


def _lock() -> None:
    lock = threading.Lock()
    _while_held(lock.acquire, lock.release)


def _rlock() -> None:
    lock = threading.RLock()
    _while_held(lock.acquire, lock.release)


def _handler() -> None:
    handler = logging.Handler()
    try:
        _while_held(handler.acquire, handler.release)
    finally:
        handler.close()


def _while_held(acquire: Callable[[], object], release: Callable[[], object]) -> None:
    def hold() -> None:
        acquire()
        gevent.sleep(WAIT)
        release()

    holder = gevent.spawn(hold)
    gevent.sleep(0)
    begin = time.monotonic()
    acquire()
    held = time.monotonic() - begin
    release()
    holder.join()
    if held < WAIT / 2:
        raise RuntimeError("it was given to two greenlets at once")


def _join() -> None:
    thread = threading.Thread(target=time.sleep, args=(WAIT,), daemon=True)
    thread.start()
    thread.join()
    if thread.is_alive():
        raise RuntimeError("join() came back before the thread had ended")


def _executor() -> None:
    with futures.ThreadPoolExecutor(1) as pool:
        pool.submit(time.sleep, WAIT).result()


def _queue() -> None:
    try:
        queue.Queue[None]().get(timeout=WAIT)
    except queue.Empty:
        pass


def _simple_queue() -> None:
    try:
        queue.SimpleQueue[None]().get(timeout=WAIT)
    except queue.Empty:
        pass


def _select() -> None:
    with _pair() as ours:
        select.select([ours], [], [], WAIT)


def _poll() -> None:
    with _pair() as ours:
        poll = select.poll()
        poll.register(ours, select.POLLIN)
        poll.poll(WAIT * 1000)


def _selector() -> None:
    with _pair() as ours, selectors.DefaultSelector() as selector:
        selector.register(ours, selectors.EVENT_READ)
        selector.select(WAIT)


def _recv() -> None:
    with _pair() as ours:
        ours.settimeout(WAIT)
        _until_timeout(lambda: ours.recv(1))


def _accept() -> None:
    with closing(socket.socket()) as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.settimeout(WAIT)
        _until_timeout(server.accept)


def _connect() -> None:
    with silent_server(backlog=0) as address:
        crowd = [socket.socket() for _ in range(4)]
        for one in crowd:  # what fills the queue of the listener, so that the last one has to wait
            one.setblocking(False)
            one.connect_ex(address)
        with closing(socket.socket()) as last:
            last.settimeout(WAIT)
            _until_timeout(lambda: last.connect(address))
        for one in crowd:
            one.close()


def _handshake() -> None:
    with silent_server() as address, closing(socket.create_connection(address)) as plain:
        plain.settimeout(WAIT)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # create_default_context reads every authority
        _until_timeout(lambda: context.wrap_socket(plain, server_hostname="localhost"))


def _until_timeout(call: Callable[[], object]) -> None:
    try:
        call()
    except TimeoutError:
        pass


def _getaddrinfo() -> None:
    socket.getaddrinfo("localhost", 80)


def _run() -> None:
    subprocess.run(["sleep", str(WAIT)], check=True)  # noqa: S607 - whatever sleep there is


def _waitpid() -> None:
    pid = os.posix_spawnp("sleep", ["sleep", str(WAIT)], os.environ)
    os.waitpid(pid, 0)


@contextmanager
def _pair() -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        yield ours


@contextmanager
def silent_server(*, backlog: int = 8) -> Iterator[tuple[str, int]]:
    """Listen on loopback, and give the address; connections are taken by the kernel and never answered."""
    with closing(socket.socket()) as server:
        server.bind(("127.0.0.1", 0))
        server.listen(backlog)
        yield server.getsockname()


PROBES: tuple[tuple[str, Callable[[], None]], ...] = (
    ("time.sleep", lambda: time.sleep(WAIT)),
    ("socket.socket.connect", _connect),
    ("socket.socket.accept", _accept),
    ("socket.socket.recv", _recv),
    ("socket.getaddrinfo", _getaddrinfo),
    ("ssl.SSLSocket.do_handshake", _handshake),
    ("select.select", _select),
    ("select.poll", _poll),
    ("selectors.DefaultSelector.select", _selector),
    ("queue.Queue.get", _queue),
    ("queue.SimpleQueue.get", _simple_queue),
    ("threading.Lock.acquire", _lock),
    ("threading.RLock.acquire", _rlock),
    ("threading.Event.wait", _event),
    ("threading.Condition.wait", _condition),
    ("threading.Thread.join", _join),
    ("concurrent.futures.ThreadPoolExecutor", _executor),
    ("logging.Handler.acquire", _handler),
    ("os.waitpid", _waitpid),
    ("subprocess.run", _run),
)
"""(what is called, a function that calls it), the cheap ones first."""
