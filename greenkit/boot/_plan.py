"""What is patched, in which order and why, as data.

The order is `gevent.monkey.patch_all`'s own (gevent 26.9, `gevent/monkey/__init__.py`): it is
written down here so that a reader, the evidence and the docs name the same steps. Nothing here
patches; `_patch` hands the plan to gevent.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

from greenkit.findings import Severity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["EFFECTS", "HARMLESS", "PATCHABLE", "PLAN", "Effect", "Step", "arguments_for"]


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


class Step(NamedTuple):
    """Name one step of the patch.

    Attributes:
        name: The argument of `gevent.monkey.patch_all` that switches it.
        modules: The modules whose attributes it replaces.
        proof: An attribute of the first of them that is replaced whenever the step is done.
        reason: Why it is done, and why at this place in the order.
    """

    name: str
    modules: tuple[str, ...]
    proof: str
    reason: str


PLAN: tuple[Step, ...] = (
    Step("os", ("os",), "fork", "First: signal needs the patched fork and waitpid to see children die."),
    Step(
        "thread",
        ("_thread", "threading", "_threading_local", "logging"),
        "start_new_thread",
        "Before everything that makes locks: a native lock held across a switch stops the process.",
    ),
    Step("time", ("time",), "sleep", "After thread, whose start-up still needs the native sleep."),
    Step("socket", ("socket",), "socket", "Before ssl and select, which build on the socket class."),
    Step(
        "dns",
        ("socket",),
        "getaddrinfo",
        "With socket: a native getaddrinfo stops every greenlet for a lookup.",
    ),
    Step("select", ("select", "selectors"), "select", "Libraries that poll must give way while they wait."),
    Step("ssl", ("ssl",), "SSLContext", "After socket; a context class captured before recurses for ever."),
    Step("subprocess", ("subprocess",), "Popen", "After os, select and thread, out of which it is built."),
    Step("signal", ("signal",), "signal", "After os: SIGCHLD is shared with gevent's child watchers."),
    Step("queue", ("queue",), "SimpleQueue", "Last: SimpleQueue is C and would stop the hub in get()."),
)

PATCHABLE: frozenset[str] = frozenset(
    {name for step in PLAN for name in step.modules} - {"_thread", "os", "time"}
)
"""Modules whose early import means something; the three left out are there in every process."""


def arguments_for(plan: Iterable[Step | str] | None) -> dict[str, bool]:
    """Return the keyword arguments that make `patch_all` do `plan` and nothing else.

    None and the whole plan give no arguments at all: Celery calls `patch_all()` again, and gevent
    warns when the second call's arguments differ from the first's.

    Raises:
        ValueError: A step gevent does not have.
    """
    if plan is None:
        return {}
    wanted = {step if isinstance(step, str) else step.name for step in plan}
    known = {step.name for step in PLAN}
    if unknown := wanted - known:
        msg = f"patch() has no step {', '.join(sorted(unknown))}; the steps are {', '.join(sorted(known))}"
        raise ValueError(msg)
    return dict.fromkeys(sorted(known - wanted), False)
