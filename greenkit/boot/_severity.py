"""What becomes of a name captured before the patch, as data.

Measured per name on Python 3.10 to 3.13. A name that is not here is harmless:
`socket.create_connection`, `threading.Event`, `queue.Queue` and their like look their primitives up
when they are called, and keep working.
"""

from __future__ import annotations

from greenkit.findings import Severity

__all__ = ["BASELINE", "EFFECTS", "HARMLESS", "NATIVE_HOMES"]

_BLOCKS = "stops every greenlet for the whole wait"
_DEADLOCKS = "locks the process up as soon as a holder switches"
_LEAKS = "is one object for all greenlets, so requests see each other's state"
_THREAD = "runs as a greenlet whose join() never returns (before Python 3.13)"
_LOOKUP = "stops every greenlet for a name lookup"

EFFECTS: dict[tuple[str, str], tuple[Severity, str]] = {
    ("time", "sleep"): (Severity.ERROR, _BLOCKS),
    ("socket", "socket"): (Severity.ERROR, _BLOCKS),
    ("socket", "socketpair"): (Severity.ERROR, _BLOCKS),
    ("socket", "fromfd"): (Severity.ERROR, _BLOCKS),
    ("socket", "getaddrinfo"): (Severity.ERROR, _LOOKUP),
    ("socket", "gethostbyname"): (Severity.ERROR, _LOOKUP),
    ("socket", "gethostbyname_ex"): (Severity.ERROR, _LOOKUP),
    ("socket", "gethostbyaddr"): (Severity.ERROR, _LOOKUP),
    ("socket", "getnameinfo"): (Severity.ERROR, _LOOKUP),
    ("select", "select"): (Severity.ERROR, _BLOCKS),
    ("select", "poll"): (Severity.ERROR, _BLOCKS),
    ("select", "epoll"): (Severity.ERROR, _BLOCKS),
    ("selectors", "DefaultSelector"): (Severity.ERROR, _BLOCKS),
    ("selectors", "EpollSelector"): (Severity.ERROR, _BLOCKS),
    ("queue", "SimpleQueue"): (Severity.ERROR, _BLOCKS),
    ("os", "waitpid"): (Severity.ERROR, _BLOCKS),
    ("os", "fork"): (Severity.WARNING, "stops every greenlet while the process forks"),
    ("ssl", "SSLContext"): (Severity.ERROR, "ends in RecursionError on first use"),
    ("ssl", "SSLSocket"): (Severity.ERROR, _BLOCKS),
    ("subprocess", "Popen"): (Severity.ERROR, "fails with 'NoneType' object is not callable"),
    ("_thread", "allocate_lock"): (Severity.WARNING, _DEADLOCKS),
    ("threading", "Lock"): (Severity.WARNING, _DEADLOCKS),
    ("threading", "_allocate_lock"): (Severity.WARNING, _DEADLOCKS),
    ("_thread", "_local"): (Severity.ERROR, _LEAKS),
    ("threading", "local"): (Severity.ERROR, _LEAKS),
    ("threading", "Thread"): (Severity.WARNING, _THREAD),
    ("threading", "Timer"): (Severity.WARNING, _THREAD),
    ("threading", "_start_new_thread"): (Severity.WARNING, "starts a native thread"),
    ("_thread", "start_new_thread"): (Severity.WARNING, "starts a native thread"),
}
"""(module, attribute) of the original → (severity, what it does in a patched process)."""

NATIVE_HOMES = frozenset({
    "_multiprocessing", "_posixsubprocess", "_queue", "_signal", "_socket", "_ssl", "_thread", "posix",
    "select", "time",
})  # fmt: skip
"""C modules an original lives in: not captures of it."""

BASELINE: frozenset[str] = frozenset({
    "_thread.RLock", "functools.RLock", "reprlib.get_ident", "tempfile._allocate_lock", "tempfile._once_lock",
    "threading._LockType", "threading._MainThread", "threading.stack_size", "_threading_local._CRLock",
    "asyncio.events._Local", "asyncio.events._RunningLoop",
    "asyncio.events.BaseDefaultEventLoopPolicy._Local",
    "multiprocessing.util.ForkAwareLocal", "ssl.create_connection", "ssl.socket", "subprocess._waitpid",
    "subprocess._del_safe.waitpid",
    "threading.Timer", "threading._CRLock", "threading._DummyThread",
})  # fmt: skip
"""Holders in the standard library that a well-ordered process has too; they do no harm."""

HARMLESS: dict[str, str] = {
    "celery._state._TLS": "it holds the current app, which is one for the process anyway",
    "celery.utils.threads._FastLocalStack": "used only when USE_FAST_LOCALS is set",
    "click.globals.local": "made its one object at import, and a command line is parsed once",
    "kombu.utils.eventio.epoll": "kombu polls with select when it sees gevent",
    "prompt_toolkit.application.application.Popen": "opens an editor, which a worker never does",
}
"""Holders in libraries that were looked at one by one, and why they do no harm."""
