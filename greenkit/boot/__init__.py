"""Patch the process once, in the right order, and prove that it worked.

The door of the boot room. It loads nothing gevent patches, so it can be the first import of a
program; gevent itself is imported by `patch()`. Called by `greenkit.auto`, the command line, and
by gevent itself through the two entry points `on_will_patch_all` and `on_did_patch_all`.
"""

from __future__ import annotations

from greenkit.boot._command_line import STARTED_AS, CommandLine
from greenkit.boot._drivers import DRIVER_HOOKS, hook_drivers, init_grpc
from greenkit.boot._events import on_did_patch_all, on_will_patch_all
from greenkit.boot._evidence import evidence
from greenkit.boot._hub import on_hub, on_turn
from greenkit.boot._imports import importers, is_users_file, on_import, watch_imports
from greenkit.boot._launch import Decision, decide, what_runs
from greenkit.boot._mismatch import refuse_mismatches
from greenkit.boot._patch import patch, patched, patched_by, report
from greenkit.boot._plan import PLAN, Step
from greenkit.boot._record import EarlyModule, PatchReport, user_frame
from greenkit.boot._running_loop import LoopIsolation, isolate_loops, loop_isolation, share_loops
from greenkit.boot._scan import StaleReference, stale_references
from greenkit.boot._settings import Settings, read_settings, unknown_variables
from greenkit.boot._shown import called, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from greenkit.boot._repair import repair

__all__ = [
    "DRIVER_HOOKS",
    "PLAN",
    "STARTED_AS",
    "CommandLine",
    "Decision",
    "EarlyModule",
    "LoopIsolation",
    "PatchReport",
    "Settings",
    "StaleReference",
    "Step",
    "called",
    "decide",
    "evidence",
    "hook_drivers",
    "importers",
    "init_grpc",
    "is_users_file",
    "isolate_loops",
    "loop_isolation",
    "on_did_patch_all",
    "on_hub",
    "on_import",
    "on_turn",
    "on_will_patch_all",
    "patch",
    "patched",
    "patched_by",
    "read_settings",
    "refuse_mismatches",
    "repair",
    "report",
    "share_loops",
    "shown",
    "stale_references",
    "unknown_variables",
    "user_frame",
    "watch_imports",
    "what_runs",
]


def __getattr__(name: str) -> Any:
    if name != "repair":
        msg = f"module 'greenkit.boot' has no attribute {name!r}"
        raise AttributeError(msg)
    # Late: a process that is patched first has nothing to repair, and starts faster without.
    from greenkit.boot._repair import repair

    return repair
