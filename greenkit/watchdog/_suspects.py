"""Blocking calls as data: C functions that wait without letting other greenlets run, and the alternatives.

`forbid()` raises at the suspects; the watchdog's log line ends with the remedy of the call it caught.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from greenkit.facts import COLLECTOR

__all__ = ["SUSPECTS", "Harmless", "Suspect", "remedy"]


class Harmless(Enum):
    """Condition under which a suspect does not block."""

    NEVER = "never"
    ZERO = "with a literal 0 or False among its arguments"
    FLAG = "with LOCK_NB, LOCK_UN or WNOHANG among its arguments"
    SOCKET = "on a socket that does not block"
    LOCK = "when the lock is free"
    QUEUE = "when the queue is not empty"


@dataclass(frozen=True, slots=True)
class Suspect:
    """A C function that waits.

    Attributes:
        call: As `facts.HubBlocked.call` names it.
        instead: What to do instead.
        harmless: When it does not block.
    """

    call: str
    instead: str
    harmless: Harmless = Harmless.NEVER


_PATCH = (
    "That is the original, from before the patch: make `import greenkit.auto` line 1, or call it through"
    " its module."
)
_NON_BLOCKING = "Ask with LOCK_NB in a loop with gevent.sleep(), or take it in gevent's threadpool."
_SIGNAL = "Wait on a gevent.event.Event that a signal handler sets."
_CHILD = "Use subprocess, whose waiting is patched."
_SQLITE = "Open it with timeout=0 and try again after gevent.sleep(), or let one greenlet write at a time."
_THREADPOOL = "Run it in a native thread: greenkit.offload(function, *args)."
_POSTGRES = "Call greenkit.postgres.install() before the first connection."
_ANY = (
    "Move the work to a prefork worker or to a native thread"
    " (greenkit.offload), or make the call cooperative."
)

_SOCKET_METHODS = (
    "_accept", "connect", "connect_ex", "recv", "recv_into", "recvfrom", "recvfrom_into", "recvmsg",
    "recvmsg_into", "send", "sendall", "sendmsg", "sendto",
)  # fmt: skip
_DNS = ("getaddrinfo", "gethostbyaddr", "gethostbyname", "gethostbyname_ex", "getnameinfo")

SUSPECTS: tuple[Suspect, ...] = (
    Suspect("time.sleep", _PATCH, Harmless.ZERO),
    *(Suspect(f"socket.socket.{name}", _PATCH, Harmless.SOCKET) for name in _SOCKET_METHODS),
    *(Suspect(f"socket.{name}", _PATCH) for name in _DNS),
    Suspect("select.select", _PATCH, Harmless.ZERO),
    Suspect("select.poll.poll", _PATCH, Harmless.ZERO),
    Suspect("select.epoll.poll", _PATCH, Harmless.ZERO),
    Suspect("queue.SimpleQueue.get", _PATCH, Harmless.QUEUE),
    Suspect("_thread.lock.acquire", _PATCH, Harmless.LOCK),
    Suspect("_thread.RLock.acquire", _PATCH, Harmless.LOCK),
    Suspect("os.waitpid", _PATCH, Harmless.FLAG),
    Suspect("os.wait", _CHILD),
    Suspect("os.wait3", _CHILD, Harmless.FLAG),
    Suspect("os.wait4", _CHILD, Harmless.FLAG),
    Suspect("os.waitid", _CHILD, Harmless.FLAG),
    Suspect("os.system", _CHILD),
    Suspect("fcntl.flock", _NON_BLOCKING, Harmless.FLAG),
    Suspect("fcntl.lockf", _NON_BLOCKING, Harmless.FLAG),
    Suspect("signal.pause", _SIGNAL),
    Suspect("signal.sigwait", _SIGNAL),
    Suspect("signal.sigwaitinfo", _SIGNAL),
    Suspect("signal.sigtimedwait", _SIGNAL, Harmless.ZERO),
)
"""The calls `forbid()` refuses by default."""

_REMEDIES = {suspect.call: suspect.instead for suspect in SUSPECTS} | {
    "_thread.lock.__enter__": _PATCH,
    "_thread.RLock.__enter__": _PATCH,
    "os.read": "Wait until it can be read, with gevent.os.tp_read() or a socket pair instead of a pipe.",
    "sqlite3.Connection.commit": _SQLITE,
    "sqlite3.Connection.execute": _SQLITE,
    "sqlite3.Connection.executemany": _SQLITE,
    "sqlite3.Cursor.execute": _SQLITE,
    "sqlite3.Cursor.executemany": _SQLITE,
    "psycopg2._connect": _POSTGRES,
    "psycopg2.extensions.cursor.execute": _POSTGRES,
    "hashlib.pbkdf2_hmac": _THREADPOOL,
    "hashlib.scrypt": _THREADPOOL,
    COLLECTOR: "Keep fewer containers alive, or call gc.freeze() once what stays has been made.",
}


def remedy(call: str) -> str:
    """Return what to do instead of `call`; the general advice when no table has it."""
    return _REMEDIES.get(call, _ANY)
