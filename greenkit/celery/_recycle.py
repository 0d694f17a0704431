"""When a worker has run long enough: after so many tasks, or with so much memory.

Prefork replaces one child at a time; a gevent worker is one process, so it drains and starts anew.
Not all of a fleet at once: each worker draws its own limit, up to a fifth above what was asked, which
spreads those that grow; and how long it bears to be over it, which spreads those that grew at one blow.
"""

from __future__ import annotations

import atexit
import os
import random
import resource
import sys
from pathlib import Path
from time import monotonic

from celery.platforms import EX_OK
from celery.utils.log import get_logger
from celery.worker import state

__all__ = ["Recycler", "end_worker"]

_logger = get_logger(__name__)
_SPREAD = 0.2
_BETWEEN_LOOKS = 1.0
# A peak is no leak; the number is drawn.
_LOOKS_IN_A_ROW = (3, 15)
# A worker over its memory limit from the start would do nothing but restart. Up to twice that.
_YOUNGEST = 30.0


class Recycler:
    """Tell when it is time.

    Args:
        most_tasks: Tasks of this process, or None.
        most_memory: Bytes resident, or None.
    """

    def __init__(self, most_tasks: int | None, most_memory: int | None) -> None:
        share = 1.0 + _SPREAD * random.random()
        self.most_tasks = None if most_tasks is None else int(most_tasks * share)
        self.most_memory = None if most_memory is None else int(most_memory * share)
        self._looked = monotonic()
        self._youngest = self._looked + _YOUNGEST * (1.0 + random.random())
        self._patience = random.randint(*_LOOKS_IN_A_ROW)
        self._too_much = 0

    def due(self, ended: int) -> str:
        """Return why it is time to stop after `ended` tasks, "" while it is not.

        Switches: never.
        """
        if self.most_tasks is not None and ended >= self.most_tasks:
            return f"{ended} tasks have ended, the limit of this process is {self.most_tasks}"
        if self.most_memory is None or monotonic() - self._looked < _BETWEEN_LOOKS:
            return ""
        self._looked = monotonic()
        resident = _resident()
        self._too_much = self._too_much + 1 if resident > self.most_memory else 0
        if self._too_much < self._patience or self._looked < self._youngest:
            return ""
        return f"{resident >> 20} MiB are resident, the limit of this process is {self.most_memory >> 20} MiB"


def end_worker(how: str, why: str) -> None:
    """Have the worker drain and then end, or, when `how` is "exec", become a new one.

    Switches: may.
    """
    _logger.warning("%s; this worker drains and %s", why, "starts anew" if how == "exec" else "exits")
    if how == "exec":
        atexit.register(_start_anew)
    state.should_stop = EX_OK  # what SIGTERM sets


def _start_anew() -> None:
    _logger.warning("starting anew: %s", " ".join(sys.orig_argv))
    # Registered last, this runs first, and does not come back: what tracing and error reports
    # still hold is flushed by functions registered before it.
    atexit.unregister(_start_anew)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - our own command line


def _resident() -> int:
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * resource.getpagesize()
    except OSError:  # not Linux: the highest there was is the best that is known
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
