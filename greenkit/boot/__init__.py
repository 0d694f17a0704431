"""Patch the process once, in the right order, and prove that it worked.

The door of the boot room. It loads nothing gevent patches, so it can be the first import of a
program; gevent itself is imported by `patch()`. Called by `greenkit.auto`, the command line, and
by gevent itself through the two entry points `on_will_patch_all` and `on_did_patch_all`.
"""

from __future__ import annotations

from greenkit.boot._drivers import init_grpc
from greenkit.boot._evidence import evidence
from greenkit.boot._imports import importers, on_import
from greenkit.boot._launch import Decision, decide
from greenkit.boot._patch import patch, patched, patched_by, report
from greenkit.boot._plan import PLAN, Step
from greenkit.boot._record import EarlyModule, PatchReport
from greenkit.boot._running_loop import LoopIsolation, isolate_loops, loop_isolation, share_loops
from greenkit.boot._scan import StaleReference, stale_references
from greenkit.boot._settings import Settings, read_settings

# For the other packages of greenkit and its entry points, not for users: no part of `__all__`.
# isort: split
from greenkit.boot._command_line import STARTED_AS as STARTED_AS
from greenkit.boot._drivers import hook_drivers as hook_drivers
from greenkit.boot._events import on_did_patch_all as on_did_patch_all
from greenkit.boot._events import on_will_patch_all as on_will_patch_all
from greenkit.boot._hub import on_hub as on_hub
from greenkit.boot._hub import on_turn as on_turn
from greenkit.boot._imports import is_users_file as is_users_file
from greenkit.boot._imports import watch_imports as watch_imports
from greenkit.boot._launch import what_runs as what_runs
from greenkit.boot._mismatch import refuse_mismatches as refuse_mismatches
from greenkit.boot._patch import patching as patching
from greenkit.boot._record import user_frame as user_frame
from greenkit.boot._settings import unknown_variables as unknown_variables
from greenkit.boot._shown import called as called
from greenkit.boot._shown import shown as shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from greenkit.boot._remedy import entry_file as entry_file
    from greenkit.boot._remedy import first_line as first_line
    from greenkit.boot._repair import repair

__all__ = [
    "PLAN",
    "Decision",
    "EarlyModule",
    "LoopIsolation",
    "PatchReport",
    "Settings",
    "StaleReference",
    "Step",
    "decide",
    "evidence",
    "importers",
    "init_grpc",
    "isolate_loops",
    "loop_isolation",
    "on_import",
    "patch",
    "patched",
    "patched_by",
    "read_settings",
    "repair",
    "report",
    "share_loops",
    "stale_references",
]


def __getattr__(name: str) -> Any:
    # Late: a process that is patched first has nothing to repair or explain, and starts faster without.
    if name == "repair":
        from greenkit.boot._repair import repair

        return repair
    if name in {"entry_file", "first_line"}:
        from greenkit.boot import _remedy

        return getattr(_remedy, name)
    msg = f"module 'greenkit.boot' has no attribute {name!r}"
    raise AttributeError(msg)
