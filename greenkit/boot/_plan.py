"""What is patched, in which order and why, as data.

The order is `gevent.monkey.patch_all`'s own (gevent 26.9, `gevent/monkey/__init__.py`): it is
written down here so that a reader, the evidence and the docs name the same steps. Nothing here
patches; `_patch` hands the plan to gevent.
"""

from __future__ import annotations

from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["PATCHABLE", "PLAN", "Step", "arguments_for"]


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
