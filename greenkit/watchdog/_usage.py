"""A thread's CPU time, its time on the run queue, and what the garbage collector took of it."""

from __future__ import annotations

import _thread
import gc
import os
import time
from typing import Any, NamedTuple

from gevent.monkey import get_original

__all__ = ["NOTHING", "Meter", "Usage", "count_collections"]

_get_ident = get_original("_thread", "get_ident")


class Usage(NamedTuple):
    """Seconds since a thread began.

    Attributes:
        computed: On a processor.
        waited: Ready to run, while other threads and processes had the processors; 0 where unknown.
        collected: On a processor, in full garbage collections of any thread: each holds the interpreter.
    """

    computed: float = 0.0
    waited: float = 0.0
    collected: float = 0.0

    def since(self, before: Usage) -> Usage:
        """Return what was used from `before` until now."""
        return Usage(*(now - then for now, then in zip(self, before, strict=True)))


NOTHING = Usage()
_collected = 0.0
_began = 0.0


def count_collections(on: bool) -> None:  # noqa: FBT001
    """Measure full garbage collections from now on, or stop."""
    if on and _on_collection not in gc.callbacks:
        gc.callbacks.append(_on_collection)
    elif not on and _on_collection in gc.callbacks:
        gc.callbacks.remove(_on_collection)


def _on_collection(phase: str, info: dict[str, Any]) -> None:
    global _began, _collected  # noqa: PLW0603 - a process has one collector
    if info["generation"] < 2:  # the younger ones hold few objects
        return
    if phase == "start":
        _began = time.thread_time()
    else:
        _collected += time.thread_time() - _began


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
            return Usage(time.clock_gettime(self._clock), self._waited(), _collected)
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
