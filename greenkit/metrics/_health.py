"""Whether this process lives, and whether it is ready for work.

Living needs no test: whoever is answered was answered by the hub. Ready is what the rooms say that take work
from elsewhere, and a bootstrap without errors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gevent import get_hub

from greenkit import boot, facts
from greenkit.findings import Severity

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["is_gunicorns_master", "not_ready"]


def not_ready() -> list[str]:
    """Return why this process should get no work yet, or none any more; nothing when it is ready.

    Switches: never.
    """
    report = boot.report()
    why = []
    if not boot.patched():
        why.append("not patched")
    elif report is not None:
        errors = sorted({finding.id for finding in report.findings if finding.severity is Severity.ERROR})
        why += [f"bootstrap: {', '.join(errors)}"] if errors else []
    for name, state in facts.snapshot().get("ready", {}).items():
        if not state["ready"]:
            why.append(f"{name}: {state['why']}")
    return why


def is_gunicorns_master() -> bool:
    """Tell whether this process only looks after gunicorn's workers: it waits natively, its hub stands still.

    Called in a greenlet or a callback: the main greenlet's frames say what the process does.

    Switches: never.
    """
    frame: FrameType | None = get_hub().parent.gr_frame
    functions = set()
    while frame is not None:
        if frame.f_globals.get("__name__") == "gunicorn.arbiter":
            functions.add(frame.f_code.co_name)
        frame = frame.f_back
    # A worker lives its life inside the call that forked it (gunicorn/arbiter.py 27).
    return bool(functions) and "spawn_worker" not in functions
