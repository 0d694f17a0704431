"""`celery events` ends on SIGTERM as on Ctrl-C: its connection closed, status 0.

Celery's dumper and camera tidy up on `SystemExit`, but nobody raises it (celery/bin/events.py, 5.7), and
a supervisor sees a process that died of a signal. `celery beat` has a handler of its own.
"""

from __future__ import annotations

import signal
import sys

import click

__all__ = ["end_on_term"]


def end_on_term() -> None:
    """Make SIGTERM end this process in good order, if it is `celery events` and nobody handles it.

    Switches: never.
    """
    command = click.get_current_context(silent=True)
    if command is None or command.invoked_subcommand != "events":
        return
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
