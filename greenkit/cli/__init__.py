"""The `greenkit` command.

The door of the command line: `main`. Loads nothing gevent patches; each command imports what it
needs when it runs, because `run` and `celery` must patch before anything else is there.
"""

from __future__ import annotations

from greenkit.cli._main import main

__all__ = ["main"]
