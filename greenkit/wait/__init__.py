"""Wait in the patched world: slots in order, deadlines, file descriptors, and who may pass.

Here lives the waiting itself; *what* is waited for belongs to the rooms above. Called by
`limits`, `pool`, `postgres`, `http` and `celery`.
"""

from __future__ import annotations

from greenkit.wait._deadline import Deadline
from greenkit.wait._fd import FdWatch
from greenkit.wait._gate import Gate, Pass
from greenkit.wait._line import WaitLine, WaitLineStatistics
from greenkit.wait._mailbox import Mailbox, hub_here, hub_to_wait_in

__all__ = [
    "Deadline",
    "FdWatch",
    "Gate",
    "Mailbox",
    "Pass",
    "WaitLine",
    "WaitLineStatistics",
    "hub_here",
    "hub_to_wait_in",
]
