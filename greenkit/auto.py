"""Patch this process when it should be: `import greenkit.auto`, as line 1 of the program.

Line 1 of `manage.py`, of the WSGI module, of the Celery app's module, of gunicorn's configuration.
It looks at the command line first: of Celery only a worker with a gevent pool is patched, never
beat, flower, shell, prefork, solo or threads. `GREENKIT=off|report|strict|repair` changes what it does:

- `off`: patch nothing; a gevent worker that would run unpatched is still refused;
- `report` (the default): patch, and log what the evidence says once;
- `strict`: refuse to start when a finding is an error;
- `repair`, or `GREENKIT_REPAIR=1`: also bind stale names of your own modules again.
"""

from __future__ import annotations

import os
import sys

from greenkit.boot import (
    Decision,
    PatchReport,
    Settings,
    decide,
    hook_drivers,
    on_import,
    patch,
    patched,
    read_settings,
    refuse_mismatches,
    unknown_variables,
)
from greenkit.errors import PatchError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

__all__ = ["decision", "report"]


def _start(decided: Decision, settings: Settings) -> PatchReport | None:
    for sentence in unknown_variables(os.environ):
        _say(sentence)
    if settings.mode == "off" or not (decided.patch or patched()):
        _leave_alone(decided, settings.mode)
        return None
    done = patch(strict="error" if settings.mode == "strict" else None, repair=settings.repair)
    refuse_mismatches()
    hook_drivers()
    if os.environ.get("GREENKIT_WATCHDOG"):
        on_import("gevent", "greenkit.watchdog:from_environ")  # at once: gevent is there
    if os.environ.get("GREENKIT_METRICS"):
        on_import("gevent", "greenkit.metrics:from_environ")
    if os.environ.get("GREENKIT_ALIVE") or os.environ.get("NOTIFY_SOCKET"):
        on_import("gevent", "greenkit.metrics:heartbeat")
    return done


def _leave_alone(decided: Decision, mode: str) -> None:
    refuse_mismatches()
    if mode == "off":
        return
    if mode == "strict" and decided.late:
        raise PatchError(f"not patched: {decided.reason}")
    place = _line_that_meant_it() if decided.late else ""
    if place or decided.stays:
        _say(f"not patched{place}: {decided.reason}")


def _line_that_meant_it() -> str:
    """Return where the import stands when it was meant for this process, else "".

    A Django project imports its Celery app, and the line in it, from every process it has: no news.
    """
    settings = os.environ.get("DJANGO_SETTINGS_MODULE")
    frame: FrameType | None = sys._getframe()
    nearest = True
    while frame is not None:
        module = str(frame.f_globals.get("__name__"))
        if module.partition(".")[0] not in {"greenkit", "importlib", "_frozen_importlib"}:
            if module == settings or (nearest and (module == "__main__" or not settings)):
                return f" by {frame.f_code.co_filename}:{frame.f_lineno}"
            nearest = False
        frame = frame.f_back
    return ""


def _say(sentence: str) -> None:
    # Not logging: nothing has configured it on line 1, and loading it here would be too early.
    print(f"greenkit: {sentence}", file=sys.stderr)  # noqa: T201


_settings = read_settings(os.environ)
decision: Decision = decide(sys.argv, os.environ, orig_argv=sys.orig_argv, loaded=sys.modules)
"""What was decided about this process, and why."""
report: PatchReport | None = _start(decision, _settings)
"""The report of the patch; None in a process that was left alone."""
