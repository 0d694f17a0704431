"""Tasks with a quota: `@app.task(limits=limiter, cost={"tokens": 900})`.

The limiter is asked when a slot is free, before the task takes it. A task that may not go steps out
of the pool's queue into one for its limiter, so that the tasks behind it are not held up, and the
prefetch window grows by its place, so that the broker goes on delivering the others.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import gevent

if TYPE_CHECKING:
    from collections.abc import Callable

    from greenkit.celery._job import Job

__all__ = ["Quotas", "costs_of", "limiter_of"]


def limiter_of(task: Any) -> Any:
    """Return the limiter a task was declared with, or None."""
    return getattr(task, "limits", None)


def costs_of(task: Any, args: Any, kwargs: Any) -> dict[str, float]:
    """Return what one call of `task` costs, by dimension: numbers, or functions of its arguments."""
    declared = getattr(task, "cost", None) or {}
    return {
        dimension: cost(*args, **kwargs) if callable(cost) else cost for dimension, cost in declared.items()
    }


class Quotas:
    """Keep the lines of all limiters of one pool.

    Args:
        retry: Called with a job that may ask its limiter again; puts it at the head of the pool's line.
        window: Called with +1 and -1 as jobs step out of the line and back.
        most: Jobs that may stand aside at once with a place in the window of their own.
    """

    def __init__(self, retry: Callable[[Job], None], window: Callable[[int], None], *, most: int) -> None:
        self._retry = retry
        self._window = window
        self._most = most
        self._lines: dict[Any, deque[Job]] = {}
        self._asking: dict[Any, Job] = {}
        self._windows = 0

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def admit(self, job: Job) -> bool:
        """Take a permit for `job`, or keep it until there may be one.

        Raises:
            Exception: The cost can never be paid, or cannot be computed.

        Switches: may, when the limiter asks a store.
        """
        limiter = limiter_of(job.task)
        line = self._lines.setdefault(limiter, deque())
        if self._asking.get(limiter) is job:
            del self._asking[limiter]
        elif line or limiter in self._asking:
            self._stand(line, job, last=True)
            return False
        try:
            permit = limiter.try_permit(**costs_of(job.task, *job.arguments()))
        except BaseException:
            self._ask_after(0.0, limiter)  # who stands behind asks for themselves
            raise
        if self._lines.get(limiter) is not line:
            # Cleared while the limiter asked its store: the message went back, the job must not stand here.
            if permit:
                job.permit = permit.__enter__()  # for the pool to end
            return False
        if permit:
            job.permit = permit.__enter__()
            self._ask_after(0.0, limiter)
            return True
        self._stand(line, job, last=False)
        self._ask_after(permit.retry_after, limiter)
        return False

    def clear(self) -> None:
        """Forget all: their connection is gone, and with it the window.

        Switches: never.
        """
        self._lines.clear()
        self._asking.clear()
        self._windows = 0

    def _stand(self, line: deque[Job], job: Job, *, last: bool) -> None:
        (line.append if last else line.appendleft)(job)
        if self._windows < self._most:
            self._windows += 1
            self._window(1)

    def _ask_after(self, seconds: float, limiter: Any) -> None:
        if self._lines.get(limiter):
            gevent.spawn_later(seconds, self._ask, limiter)

    def _ask(self, limiter: Any) -> None:
        line = self._lines.get(limiter)
        if not line or limiter in self._asking:
            return
        job = line.popleft()
        if self._windows > len(self):
            self._windows -= 1
            self._window(-1)
        self._asking[limiter] = job
        self._retry(job)
