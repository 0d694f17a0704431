"""A thread's CPU time, and its time on the run queue, as the system reports them."""

from __future__ import annotations

import _thread
import os
import time
from typing import NamedTuple

from gevent.monkey import get_original

__all__ = ["NOTHING", "Meter", "Usage"]

_get_ident = get_original("_thread", "get_ident")


class Usage(NamedTuple):
    """Seconds since a thread began.

    Attributes:
        computed: On a processor.
        waited: Ready to run, while other threads and processes had the processors; 0 where unknown.
    """

    computed: float = 0.0
    waited: float = 0.0

    def since(self, before: Usage) -> Usage:
        """Return what was used from `before` until now."""
        return Usage(self.computed - before.computed, self.waited - before.waited)


NOTHING = Usage()


class Meter:
    """Read the usage of the thread that makes it; any thread may read it.

    Attributes:
        task: The thread's id in the system.
    """

    __slots__ = ("_clock", "_path", "task")

    def __init__(self) -> None:
        self.task = _thread.get_native_id()
        self._clock = time.pthread_getcpuclockid(_get_ident())
        self._path = f"/proc/self/task/{self.task}/schedstat"

    def read(self) -> Usage:
        """Return the usage so far; zeros when the thread has ended."""
        try:
            return Usage(time.clock_gettime(self._clock), self._waited())
        except OSError:
            return Usage()

    def _waited(self) -> float:
        # Linux, Documentation/scheduler/sched-stats.rst: time on the processor, time on a run queue, slices.
        try:
            file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return 0.0
        try:
            return int(os.read(file, 128).split()[1]) / 1e9
        finally:
            os.close(file)
