"""What `forbid()` refuses, what it lets through, and where the refusal is seen."""

from __future__ import annotations

import _socket
import contextlib
import fcntl
import functools
import os
import sqlite3
from pathlib import Path

import gevent
import gevent.event
import pytest
from gevent.monkey import get_original

from greenkit.errors import BlockingCallError
from greenkit.watchdog import forbid
from greenkit.watchdog._judge import Judge, _original
from greenkit.watchdog._suspects import SUSPECTS

native_sleep = get_original("time", "sleep")
native_socket = get_original("socket", "socket")
native_select = get_original("select", "select")
native_poll = get_original("select", "poll")
native_queue = get_original("queue", "SimpleQueue")
getaddrinfo = get_original("socket", "getaddrinfo")
waitpid = get_original("os", "waitpid")
lock = get_original("_thread", "allocate_lock")()
reentrant = get_original("_thread", "RLock")()
start_thread = get_original("_thread", "start_new_thread")


def held() -> None:
    with lock:
        lock.acquire()


def connect() -> None:
    with native_socket() as one:
        one.connect(("127.0.0.1", 1))


def receive(timeout: float | None) -> bytes:
    ours, theirs = _socket.socketpair()
    with contextlib.closing(ours), contextlib.closing(theirs):
        theirs.send(b"x")
        ours.settimeout(timeout)
        return ours.recv(1)


def flock(flags: int) -> None:
    with Path(__file__).open() as file:
        fcntl.flock(file, flags)


def flock_nb() -> None:
    with Path(__file__).open() as file:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(file, fcntl.LOCK_UN)


def statement() -> None:
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.execute("SELECT 1")


def no_child() -> None:
    with contextlib.suppress(ChildProcessError):
        waitpid(2**22, os.WNOHANG)


REFUSED = {
    "time.sleep": lambda: native_sleep(0.001),
    "_thread.lock.acquire": held,
    "socket.socket.connect": connect,
    "socket.socket.send": lambda: receive(None),
    "socket.getaddrinfo": lambda: getaddrinfo("localhost", 80),
    "select.select": lambda: native_select([], [], [], 0.001),
    "select.poll.poll": lambda: native_poll().poll(1),
    "queue.SimpleQueue.get": lambda: native_queue().get(timeout=0.001),
    "fcntl.flock": lambda: flock(fcntl.LOCK_SH),
    "os.waitpid": lambda: waitpid(-1, 0),
    "os.system": lambda: os.system("true"),
}
ALLOWED = {
    "a sleep that only yields": lambda: native_sleep(0),
    "a free lock": lambda: (lock.acquire(), lock.release()),
    "a lock that is not waited for": lambda: lock.acquire(False) and lock.release(),
    "a lock of one's own": lambda: (
        reentrant.acquire(),
        reentrant.acquire(),
        reentrant.release(),
        reentrant.release(),
    ),
    "a select that does not wait": lambda: native_select([], [], [], 0),
    "a queue with something in it": lambda: (queue := native_queue()).put(1) or queue.get(),
    "a lock file that is not waited for": flock_nb,
    "a child that is not waited for": no_child,
    "what gevent does": lambda: gevent.event.Event().wait(0.001),
    "a file": lambda: Path(__file__).read_text(),
    "a statement of sqlite": statement,
}


@pytest.mark.parametrize("call", REFUSED)
def test_a_blocking_call_is_refused(call: str) -> None:
    """Before it is made, with its name, this file's line and what to do instead."""
    with pytest.raises(BlockingCallError) as caught, forbid():
        REFUSED[call]()
    assert caught.value.call == call
    assert "test_forbid.py:" in caught.value.where
    assert f"{call}() would block the hub" in str(caught.value)
    assert str(caught.value).endswith(next(one.instead for one in SUSPECTS if one.call == call))


@pytest.mark.parametrize("what", ALLOWED)
def test_what_does_not_wait_is_let_through(what: str) -> None:
    """The same functions when they return at once, and everything cooperative."""
    with forbid() as watched:
        ALLOWED[what]()
    assert watched.caught == []


def test_a_socket_that_does_not_block_is_let_through() -> None:
    """It is the socket's own time-out that decides."""
    ours, theirs = _socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    with contextlib.closing(ours), contextlib.closing(theirs), forbid():
        theirs.send(b"x")
        assert ours.recv(1) == b"x"


def test_however_the_name_was_come_by() -> None:
    """A partial is C code around the call and out of sight; a closure, a default and a container are not."""
    names = {"pause": native_sleep}

    def default(pause=native_sleep) -> None:
        pause(0.001)

    def parameter(pause) -> None:
        pause(0.001)

    for way in (default, lambda: names["pause"](0.001), lambda: parameter(native_sleep)):
        with pytest.raises(BlockingCallError), forbid():
            way()
    with forbid():
        functools.partial(native_sleep, 0.001)()


def call_all(every) -> None:
    for one in every:
        one(1)


def test_a_site_that_called_something_harmless_first() -> None:
    """A loop over callables is watched to its end."""
    with pytest.raises(BlockingCallError), forbid():
        call_all((gevent.idle, abs, native_sleep))


def test_another_greenlets_call_is_raised_at_the_end(capfd) -> None:
    """Where it was made it only ends that greenlet, which nobody may look at."""
    watched = forbid()
    with pytest.raises(BlockingCallError) as caught, watched:
        gevent.spawn(lambda: native_sleep(0.001)).join()
    assert watched.caught == [caught.value]
    assert "failed with BlockingCallError" in capfd.readouterr().err


def test_a_handled_refusal_is_handled() -> None:
    """In the greenlet that entered, whoever catches it may go on."""
    with forbid() as watched, pytest.raises(BlockingCallError):
        native_sleep(0.001)
    assert [one.call for one in watched.caught] == ["time.sleep"]


def test_other_threads_may_wait() -> None:
    """A native thread blocks nobody but itself."""
    done = []
    with forbid() as watched:
        start_thread(lambda: (native_sleep(0.001), done.append(1)), ())
        while not done:
            gevent.sleep(0)
    assert watched.caught == []


def pause() -> None:
    native_sleep(0.001)


@pytest.mark.parametrize("entry", ["time.sleep", "watchdog/test_forbid.py", "test_forbid.py:pause", __file__])
def test_what_is_allowed_may_block(entry: str) -> None:
    """By the call, by the file, by the function with all it calls."""
    with forbid(allow=[entry]):
        pause()


def test_an_allowance_is_no_wider_than_it_says() -> None:
    """Neither another function nor a file whose name only ends alike."""
    with pytest.raises(BlockingCallError), forbid(allow=["test_forbid.py:other", "forbid.py", "os.system"]):
        pause()


def test_more_can_be_forbidden() -> None:
    """And a name that is no C function is an error."""
    with pytest.raises(BlockingCallError) as caught, forbid(also=["sqlite3.Connection.execute"]):
        statement()
    assert "timeout=0" in str(caught.value)
    with pytest.raises(ValueError, match="no C function 'sqlite3_nothing' to forbid"):
        forbid(also=["sqlite3_nothing"])


def test_nested_the_innermost_decides() -> None:
    """And the outer one is back when it ends."""
    with forbid():
        with forbid(allow=["time.sleep"]):
            pause()
        with pytest.raises(BlockingCallError):
            pause()
    pause()


def test_a_refusal_does_not_end_it() -> None:
    """After one was raised, a nested block and the one around it go on refusing, in other greenlets too."""
    with forbid() as outer:
        for _ in range(2):
            with pytest.raises(BlockingCallError), forbid():
                pause()
        with pytest.raises(BlockingCallError):
            pause()
        for _ in range(2):
            gevent.spawn(pytest.raises, BlockingCallError, pause).get()
        outer._elsewhere.clear()


@forbid()
def decorated() -> None:
    pause()


def test_it_decorates() -> None:
    """As often as the function is called."""
    for _ in range(2):
        with pytest.raises(BlockingCallError):
            decorated()
    pause()


def test_every_suspect_exists_here() -> None:
    """The table names nothing this Python does not have."""
    assert [one.call for one in SUSPECTS if _original(one.call) is None] == []


def test_a_callee_is_never_asked() -> None:
    """Recognised by identity: hostile callables run no code but their own call."""

    class Hostile:
        def __call__(self) -> str:
            return "called"

        def __getattribute__(self, name: str) -> object:
            raise AssertionError(name)

        def __eq__(self, other: object) -> bool:
            raise AssertionError

        __hash__ = None

    hostile = Hostile()
    with forbid():
        assert hostile() == "called"
    assert Judge().suspect(hostile) is None
