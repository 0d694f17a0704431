"""When a worker has run long enough: after so many tasks, or with so much memory.

Prefork replaces one child at a time; a gevent worker is one process, so it drains and starts anew:
the same interpreter, arguments and directory. Whatever else stops the worker meanwhile has its way.
The limit and the time a worker may be over it are drawn, so that a fleet does not restart together.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import resource
import shlex
import signal
import sys
from pathlib import Path
from time import monotonic

from celery.platforms import EX_FAILURE, EX_OK
from celery.utils.log import get_logger
from celery.worker import state

from greenkit.boot import STARTED_AS

__all__ = [
    "RECYCLED",
    "STOP_SIGNALS",
    "Recycler",
    "end_worker",
    "note_stop_signal",
    "start_anew_at_exit",
    "stay_ended",
    "told_to_stop",
]

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
        self._looks_in_a_row = random.randint(*_LOOKS_IN_A_ROW)
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
        if self._too_much < self._looks_in_a_row or self._looked < self._youngest:
            return ""
        return f"{resident >> 20} MiB are resident, the limit of this process is {self.most_memory >> 20} MiB"


class _Recycled(int):
    """The status of a worker that ended only to become a new process."""


RECYCLED = _Recycled(EX_OK)
STOP_SIGNALS = ("SIGTERM", "SIGINT", "SIGQUIT")
_stop = [False]


def note_stop_signal() -> None:
    """Remember that this process was told to stop: it does not start anew, however far it is.

    Called in a native signal handler, whichever greenlet is current.

    Switches: never.
    """
    _stop[0] = True


def told_to_stop() -> bool:
    """Tell whether a stop signal came."""
    return _stop[0]


def end_worker(how: str) -> None:
    """Have Celery's worker end; with `how` "exec" `start_anew_at_exit()` recognises its status."""
    # What SIGTERM sets. Celery passes the very object on to `worker.exitcode`; any other way to
    # stop the worker sets another.
    state.should_stop = RECYCLED if how == "exec" else EX_OK


def start_anew_at_exit() -> None:
    """Have this process become a new one when the interpreter exits, unless a stop signal comes before."""
    atexit.unregister(_start_anew)
    atexit.register(_start_anew)


def stay_ended() -> None:
    """Take `start_anew_at_exit()` and a noted stop signal back."""
    atexit.unregister(_start_anew)
    _stop[0] = False


def _start_anew() -> None:
    if _stop[0]:
        return
    _logger.warning("starting anew: %s", shlex.join([STARTED_AS.interpreter, *STARTED_AS.arguments]))
    # Registered last, this runs first, and does not come back: what tracing and error reports
    # still hold is flushed by functions registered before it. They may take their time.
    atexit.unregister(_start_anew)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # a closed pipe must not keep the worker from its work
            stream.flush()
    if _no_stop_until_now():
        _execute()
    for name in STOP_SIGNALS:
        signal.signal(getattr(signal, name), signal.SIG_IGN)  # the process ends already, in good order


def _no_stop_until_now() -> bool:
    """Give stop signals back to the system, and tell whether none came before that."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    # Python forgets a signal whose handler is exchanged between its arrival, in any thread, and its
    # turn. Its number is written here on arrival.
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    numbers = [getattr(signal, name) for name in STOP_SIGNALS]
    for number in numbers:
        signal.signal(number, signal.SIG_DFL)  # from here to the new process's handlers it ends either
    try:
        arrived = set(os.read(reader, 4096))
    except BlockingIOError:
        arrived = set()
    return not (_stop[0] or arrived & set(numbers))


def _execute() -> None:
    try:
        if STARTED_AS.directory:
            os.chdir(STARTED_AS.directory)
        os.execv(STARTED_AS.interpreter, [STARTED_AS.interpreter, *STARTED_AS.arguments])  # noqa: S606 - our own command line
    except (OSError, ValueError) as exc:
        with contextlib.suppress(Exception):
            sys.stderr.write(f"greenkit: cannot start anew: {exc}; status 1\n")
            sys.stderr.flush()
        os._exit(EX_FAILURE)  # an exit function cannot change the status, and a supervisor must see it


def _resident() -> int:
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * resource.getpagesize()
    except OSError:  # not Linux: the highest there was is the best that is known
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
