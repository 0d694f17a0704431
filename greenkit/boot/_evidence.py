"""What is not as it should be after the patch, as findings.

Looks and never changes anything. Each finding's id has a page under `docs/reference`.
"""

from __future__ import annotations

import sys

from greenkit.boot._scan import survey

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from greenkit.boot._graph import Hold
    from greenkit.boot._scan import StaleReference
    from greenkit.findings import Finding

__all__ = ["evidence", "findings_about", "is_patched"]


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


def findings_about(references: Iterable[StaleReference], natives: Iterable[Hold]) -> tuple[Finding, ...]:
    """Return the evidence, given a survey that was made already: it is the costly part.

    Switches: never.
    """
    # Late: these read source files with `ast`, and only a process that was patched has something to explain.
    from greenkit.boot._held import native_findings, stale_findings
    from greenkit.boot._libraries import library_findings
    from greenkit.boot._process import mismatches, unpatched
    from greenkit.boot._state import state_findings

    monkey = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.saved.keys() & {"socket", "time"}:
        return tuple(unpatched())
    return (
        *state_findings(),
        *stale_findings(references),
        *native_findings(natives),
        *mismatches(),
        *library_findings(),
    )
