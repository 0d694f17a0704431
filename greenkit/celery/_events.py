"""`celery events` and `celery beat` end on SIGTERM as on Ctrl-C: connections closed, status 0.

Celery's dumper and camera tidy up on `SystemExit`, but nobody raises it (celery/bin/events.py, 5.7), and
a supervisor sees a process that died of a signal. Beat has a handler, which saves the schedule in whatever
line the process is (celery/apps/beat.py, 5.7): in one that makes the schedule or writes to the log it fails,
and beat ends with status 1. `Service.start` saves it too, on `SystemExit`.
"""

from __future__ import annotations

import signal
import sys
from typing import Any

import click

__all__ = ["end_on_term"]


def end_on_term() -> None:
    """Make SIGTERM end this process in good order, if it is `celery events` or `celery beat`.

    Switches: never.
    """
    command = click.get_current_context(silent=True)
    word = None if command is None else command.invoked_subcommand
    if word == "events" and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _exit)
    elif word == "beat":
        from celery.apps.beat import Beat  # late: no other command needs it

        Beat.install_sync_handler = _install_exit


def _exit(*_: Any) -> None:
    sys.exit(0)


def _install_exit(beat: Any, service: Any) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit)
