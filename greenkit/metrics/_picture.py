"""What `greenkit top` is shown of this process."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greenkit import facts
from greenkit.watchdog import living_greenlets

if TYPE_CHECKING:
    from greenkit.metrics._observed import Observed

__all__ = ["picture"]

_MOST_LINES = 20
_OURS = str(Path(__file__).resolve().parents[1])


def picture(observed: Observed | None) -> dict[str, Any]:
    """Return what this process does, ready for JSON: its facts, the hub's lag, and where greenlets wait.

    Switches: never; the look at all greenlets takes some milliseconds.
    """
    # First: budgets refill while the greenlets are looked at, and a busy limit would show a full burst.
    told = facts.snapshot()
    lines = (living.waits or living.runs for living in living_greenlets())
    # Those that serve this answer, and the loop of greenkit.aio, are no news.
    waits = Counter(line for line in lines if not line.startswith(_OURS) and "gevent.baseserver" not in line)
    return {
        "pid": os.getpid(),
        "command": " ".join(sys.argv[:6]),
        "facts": told,
        "lag": list(observed.recent) if observed is not None else [],
        "waits": [[count, line] for line, count in waits.most_common(_MOST_LINES)],
    }
