"""What is not as it should be after the patch, as findings.

Looks and never changes anything. Each finding's id has a page under `docs/reference`.
"""

from __future__ import annotations

import sys

from greenkit.boot._known import HOOKED, KNOWN
from greenkit.boot._proof import holds_up
from greenkit.boot._scan import survey

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from greenkit.boot._graph import Hold
    from greenkit.boot._scan import StaleReference
    from greenkit.findings import Finding

__all__ = ["evidence", "findings_about", "is_patched"]

_WORKERS = ("celery.concurrency.prefork", "celery.concurrency.thread", "gunicorn.workers.gthread")


def is_patched() -> bool:
    """Tell whether gevent has patched threads and sockets of this process."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and "socket" in monkey.saved and "threading" in monkey.saved


def evidence() -> tuple[Finding, ...]:
    """Return what is wrong with the patch of this process; () when nothing is.

    Reads the process by identity and evaluates nothing.

    Switches: never.
    """
    return findings_about(*survey())


def findings_about(references: Sequence[StaleReference], natives: Sequence[Hold]) -> tuple[Finding, ...]:
    """Return the evidence, given a survey that was made already: it is the costly part.

    Switches: never.
    """
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.saved.keys() & {"socket", "time"}:
        # Late, like the others below: they read source files, and a process in order has nothing to explain.
        from greenkit.boot._process import unpatched

        return tuple(unpatched())
    findings: list[Finding] = []
    if not holds_up():
        from greenkit.boot._state import state_findings

        findings += state_findings()
    if references or natives:
        from greenkit.boot._held import native_findings, stale_findings

        findings += [*stale_findings(references), *native_findings(natives)]
    if not sys.modules.keys().isdisjoint(_WORKERS):
        from greenkit.boot._process import mismatches

        findings += mismatches()
    if not sys.modules.keys().isdisjoint((*HOOKED, *(known.module for known in KNOWN))):
        from greenkit.boot._libraries import library_findings

        findings += library_findings()
    return tuple(findings)
