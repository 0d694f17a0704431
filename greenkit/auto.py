"""Patch this process when it should be: `import greenkit.auto`, as line 1 of the program.

Line 1 of `manage.py`, of the WSGI module, of the Celery app's module. In a Celery process it looks
at the command line first: only a worker with a gevent pool is patched, never beat, flower, shell,
prefork, solo or threads. `GREENKIT=off|report|strict|repair` changes what it does:

- `off`: patch nothing; a gevent worker that would run unpatched is still refused;
- `report` (the default): patch, and log what the evidence says once;
- `strict`: refuse to start when a finding is an error;
- `repair`: also bind stale names of your own modules again.
"""

from __future__ import annotations

import os
import sys

from greenkit.boot import Decision, PatchReport, decide, on_import, patch, patched
from greenkit.errors import ConfigError, PatchError

__all__ = ["DRIVER_HOOKS", "decision", "report"]

DRIVER_HOOKS = (
    ("psycopg2", "greenkit.postgres:install"),
    ("psycopg", "greenkit.postgres:install"),
    ("httpcore2._backends.sync", "greenkit.http:tune_httpx"),
    ("httpcore._backends.sync", "greenkit.http:tune_httpx"),
)
"""(package, "module:function" called once the package is imported), for patched processes."""

_MODES = ("off", "report", "strict", "repair")


def _start(decided: Decision, mode: str) -> PatchReport | None:
    if mode not in _MODES:
        msg = f"GREENKIT={mode!r} is none of {', '.join(_MODES)}"
        raise ConfigError(msg)
    if decided.worker:
        # Celery imports this module when, and only when, the worker's pool is gevent's; a pool
        # named in the configuration is not known any earlier.
        on_import("celery.concurrency.gevent", _refuse_unpatched)
    if mode == "off" or not (decided.patch or patched()):
        if mode == "strict" and decided.late:
            raise PatchError(f"not patched: {decided.reason}")
        return None
    done = patch(strict="error" if mode == "strict" else None, repair=mode == "repair")
    for package, hook in DRIVER_HOOKS:
        on_import(package, hook)
    return done


def _refuse_unpatched() -> None:
    if patched():
        return
    msg = (
        "greenkit: this worker's pool is gevent but the process is not patched; it would take tasks"
        f" and never run them. Start it with: greenkit celery {' '.join(sys.argv[1:])}"
    )
    # Not a PatchError alone: Celery catches Exception in several places on the way out.
    raise SystemExit(msg) from PatchError(msg)


decision: Decision = decide(sys.argv, os.environ, orig_argv=sys.orig_argv, loaded=sys.modules)
"""What was decided about this process, and why."""
report: PatchReport | None = _start(decision, os.environ.get("GREENKIT", "report"))
"""The report of the patch; None in a process that was left alone."""
