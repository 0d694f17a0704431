"""What becomes of a name captured before the patch, as data.

Measured per name on Python 3.10 to 3.13. A name that is not here is harmless:
`socket.create_connection`, `threading.Event`, `queue.Queue` and their like look their primitives up
when they are called, and keep working.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

from greenkit.findings import Severity

__all__ = ["EFFECTS", "HARMLESS", "Effect"]


class Effect(NamedTuple):
    """Say what using an original does in a patched process.

    Attributes:
        severity: How bad that is in the user's code.
        word: The kind: "blocks-hub", "deadlocks", "hangs", "crashes", "leaks-state", "no-exclusion".
        text: The same as a clause.
    """

    severity: Severity
    word: str
    text: str


_BLOCKS = Effect(Severity.ERROR, "blocks-hub", "stops every greenlet for the whole wait")
_LOOKUP = Effect(Severity.ERROR, "blocks-hub", "stops every greenlet for a name lookup")
_FORKS = Effect(Severity.WARNING, "blocks-hub", "stops every greenlet while the process forks")
_DEADLOCKS = Effect(Severity.WARNING, "deadlocks", "locks the process up as soon as a holder switches")
_LEAKS = Effect(
    Severity.ERROR, "leaks-state", "is one object for all greenlets, so requests see each other's state"
)
_RECURSION = Effect(Severity.ERROR, "crashes", "ends in RecursionError on first use")
_POPEN = Effect(Severity.ERROR, "crashes", "fails with 'NoneType' object is not callable")
# Python 3.13 waits for the handle of a thread, which gevent replaces; before it, for a native lock.
_THREAD = Effect(
    Severity.INFO if sys.version_info >= (3, 13) else Severity.WARNING,
    "" if sys.version_info >= (3, 13) else "hangs",
    "runs as a greenlet whose join() never returns (before Python 3.13)",
)
_STARTS = Effect(Severity.WARNING, "blocks-hub", "starts a native thread, whose waits no greenlet sees")

EFFECTS: dict[tuple[str, str], Effect] = {
    ("time", "sleep"): _BLOCKS,
    ("socket", "socket"): _BLOCKS,
    ("socket", "socketpair"): _BLOCKS,
    ("socket", "fromfd"): _BLOCKS,
    ("socket", "getaddrinfo"): _LOOKUP,
    ("socket", "gethostbyname"): _LOOKUP,
    ("socket", "gethostbyname_ex"): _LOOKUP,
    ("socket", "gethostbyaddr"): _LOOKUP,
    ("socket", "getnameinfo"): _LOOKUP,
    ("select", "select"): _BLOCKS,
    ("select", "poll"): _BLOCKS,
    ("select", "epoll"): _BLOCKS,
    ("selectors", "DefaultSelector"): _BLOCKS,
    ("selectors", "EpollSelector"): _BLOCKS,
    ("queue", "SimpleQueue"): _BLOCKS,
    ("os", "waitpid"): _BLOCKS,
    ("os", "fork"): _FORKS,
    ("ssl", "SSLContext"): _RECURSION,
    ("ssl", "SSLSocket"): _BLOCKS,
    ("subprocess", "Popen"): _POPEN,
    ("_thread", "allocate_lock"): _DEADLOCKS,
    ("threading", "Lock"): _DEADLOCKS,
    ("threading", "_allocate_lock"): _DEADLOCKS,
    ("_thread", "_local"): _LEAKS,
    ("threading", "local"): _LEAKS,
    ("threading", "Thread"): _THREAD,
    ("threading", "Timer"): _THREAD,
    ("threading", "_start_new_thread"): _STARTS,
    ("_thread", "start_new_thread"): _STARTS,
}
"""(module, attribute) of the original → what it does to whoever still uses it."""

HARMLESS: dict[str, str] = {
    "_pytest.timing.sleep": "pytest keeps it on purpose, for its own waits, so that tests may mock time",
    "celery._state._TLS": "it holds the current app, which is one for the process anyway",
    "celery.utils.threads._FastLocalStack": "used only when USE_FAST_LOCALS is set",
    "click.globals.local": "made its one object at import, and a command line is parsed once",
    "kombu.utils.eventio.epoll": "kombu polls with select when it sees gevent",
    "prompt_toolkit.application.application.Popen": "opens an editor, which a worker never does",
}
"""Holders in libraries that were looked at one by one, and why they do no harm."""
