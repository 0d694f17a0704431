"""The pool a green worker runs its tasks in.

`apply_async` never waits: what finds no free slot queues, so the consumer goes on answering
remote control and timers. The module's name ends in "gevent" because Celery refuses to embed beat
in pools by that ending (celery/worker/components.py, `Beat.create`).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gevent
from celery.concurrency.base import BasePool
from celery.utils.log import get_logger
from gevent.event import Event

from greenkit import facts
from greenkit.celery._apps import installed
from greenkit.celery._child_greenlets import watch_spawns
from greenkit.celery._job import Job
from greenkit.celery._lifespan import close_resources, open_resources
from greenkit.celery._options import Options
from greenkit.celery._rate_limits import Quotas, limiter_of
from greenkit.celery._recycle import Recycler, end_worker, start_anew_at_exit
from greenkit.celery._task_body import wrap
from greenkit.wait import Deadline

if TYPE_CHECKING:
    from collections.abc import Callable

    from greenkit.celery._event_loop import GreenHub

__all__ = ["PoolStatistics", "TaskPool"]

_logger = get_logger(__name__)
_PAUSE_AFTER_ERROR = 0.01
_MOST_SLOTS = 0xFFFF


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """Say how full a worker's pool is.

    Attributes:
        size: Slots.
        in_use: Tasks running.
        waiting: Tasks received that wait for a slot.
        limited: Tasks received that wait for their limiter.
        ended: Tasks that have ended since the start.
    """

    size: int
    in_use: int
    waiting: int
    limited: int
    ended: int


class TaskPool(BasePool):  # type: ignore[misc]  # Celery ships no types
    """Run Celery tasks in greenlets, and keep the promises prefork keeps.

    Soft and hard time limits, terminate, every exception to a result, a queue instead of a
    blocked consumer, and a shutdown that starts nothing new.
    """

    signal_safe = False
    is_green = True
    task_join_will_block = False
    name = "celery"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.settings = Options()
        self.loop: GreenHub | None = None
        self.window: Callable[[int], None] = lambda _: None
        self._jobs: dict[int, Job] = {}
        self._queue: deque[Job] = deque()
        self._quotas = Quotas(self._retry_admission, self._move_window, most=0)
        self._recycler = Recycler(None, None)
        self._services: dict[Any, object] = {}
        self._paused = self._closed = self._held = False
        self.stop_consuming: Callable[[], None] = lambda: None
        self._recycling = ""
        self._drain: Deadline | None = None
        self._ended = 0
        self._change = Event()
        facts.register("pool", self)

    def __repr__(self) -> str:
        return f"<TaskPool {len(self._jobs)}/{self.limit} running, {len(self._queue)} waiting>"

    def statistics(self) -> PoolStatistics:
        """Return how full the pool is.

        Switches: never.
        """
        return PoolStatistics(self.limit, len(self._jobs), len(self._queue), len(self._quotas), self._ended)

    @property
    def draining(self) -> bool:
        """Tell whether it starts nothing any more, because the worker stops or is made anew."""
        return self._paused

    def running(self) -> list[Job]:
        """Return the jobs that have a slot, the longest running first.

        Switches: never.
        """
        return list(self._jobs.values())

    def requests(self) -> list[Any]:
        """Return Celery's requests that run and will acknowledge or reject their message.

        Not those that have a slot only to ask their limiter, or whose greenlet has not had its
        first turn. Celery's `active_requests` lacks those whose end is being noted: a signal's
        receiver or the result backend may take its time.

        Switches: never.
        """
        jobs = self._jobs.values()
        return [job.request for job in jobs if job.begun and job.request is not None and not job.killed]

    # -- Celery's side: start, apply, resize ----------------------------------

    def on_start(self) -> None:
        """Open what the tasks share; an exception here ends the worker before its first message."""
        open_resources(self.settings.warm_up)
        watch_spawns()
        if self.app is not None:  # by now the tasks of the warm-up modules are there too
            wrap(self.app.tasks.values(), edges=True, retry_limited=self.settings.retry_limited)
        per_slot, memory = self.options.get("maxtasksperchild"), self.options.get("max_memory_per_child")
        self._quotas = Quotas(self._retry_admission, self._move_window, most=self.settings.hold_limited)
        self._recycler = Recycler(
            per_slot * self.limit if per_slot else None, memory * 1024 if memory else None
        )

    def register_with_event_loop(self, loop: GreenHub) -> None:
        """Remember the loop, which goes on turning while the pool drains."""
        self.loop = loop

    def spawn_n(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run one of Celery's own services (remote control) in a greenlet, again when it dies.

        Celery's dies with its broker connection and is never seen again (celery/worker/pidbox.py
        5.7, `gPidbox.loop`). A newer call for the same service takes the place of the older.
        """
        self._services[function] = current = object()

        def serve() -> None:
            try:
                function(*args)
            except Exception as exc:
                if self._services.get(function) is current and not self._paused:
                    _logger.warning("%r died (%r); it starts again in a second", function, exc)
                    gevent.spawn_later(1.0, restart)

        def restart() -> None:
            if self._services.get(function) is current and not self._paused:
                serve()

        return gevent.spawn_raw(serve)

    def on_apply(
        self,
        target: Callable[..., Any],
        args: Any = None,
        kwargs: Any = None,
        *,
        callback: Callable[..., Any] | None = None,
        error_callback: Callable[..., Any] | None = None,
        accept_callback: Callable[..., Any] | None = None,
        timeout_callback: Callable[..., Any] | None = None,
        timeout: float | None = None,
        soft_timeout: float | None = None,
        **_: Any,
    ) -> Job:
        """Start the task in a free slot, or queue it.

        Switches: never.
        """
        hooks = {
            "accept": accept_callback,
            "success": callback,
            "failure": error_callback or callback,
            "timeout": timeout_callback,
        }
        job = Job(
            target,
            args or (),
            hooks={name: hook for name, hook in hooks.items() if hook is not None},
            limit=timeout or self.options.get("timeout"),
            soft_limit=soft_timeout or self.options.get("soft_timeout"),
            grace=self.settings.kill_grace,
            request=getattr(accept_callback, "__self__", None),
            left=self.settings.children,
        )
        self._queue.append(job)
        self._dispatch()
        return job

    def grow(self, n: int = 1) -> None:
        """Add `n` slots; what waits starts at once.

        Raises:
            TypeError: `n` is no whole number.
            ValueError: The pool would have more than 65,535 slots, the largest prefetch window.
        """
        _check_whole(n)
        if n < 0:
            self.shrink(-n)
        if self.limit + n > _MOST_SLOTS:
            raise ValueError(
                f"the pool has {self.limit} slots and cannot grow by {n}: {_MOST_SLOTS} are the most"
            )
        self.limit += max(n, 0)
        self._dispatch()

    def shrink(self, n: int = 1) -> None:
        """Take `n` slots away; running tasks end in peace.

        Raises:
            TypeError: `n` is no whole number.
            ValueError: Fewer than one slot would remain.
        """
        _check_whole(n)
        if self.limit - n < 1:
            raise ValueError(
                f"the pool has {self.limit} slots and cannot shrink by {n}: with none left this "
                "worker would hold messages and run nothing; stop consuming with cancel_consumer"
            )
        self.limit -= n

    def terminate_job(self, pid: int, signal: int | None = None) -> None:
        """End the task running under `pid` (greenlets have no signals; it is ignored)."""
        job = self._jobs.get(pid)
        if job is not None:
            job.kill()

    def hold(self) -> None:
        """Start nothing until `flush()`: the connection is gone, and what waits goes to others.

        Switches: never.
        """
        self._held = True
        for job in self._jobs.values():
            job.dropped = not job.begun  # asks its limiter, or its greenlet has not had its first turn

    def flush(self) -> None:
        """Forget what has not started: its connection is gone, the broker sends it again."""
        self.hold()
        self._queue.clear()
        self._quotas.clear()
        self._held = False

    def restart(self) -> None:
        """Say that there is nothing to restart: each task has a greenlet of its own anyway."""
        _logger.warning(
            "a gevent pool has no processes to restart; modules are reloaded where they were asked "
            "for, and tasks that run keep the old code. SIGHUP starts the whole worker anew"
        )

    @property
    def num_processes(self) -> int:
        """Return the number of slots."""
        return int(self.limit)

    # -- stopping -------------------------------------------------------------

    def pause(self) -> None:
        """Start nothing any more; what runs goes on.

        Switches: never.
        """
        self._paused = True

    def recycle(self, how: str, why: str) -> None:
        """Fetch and start nothing any more, and end the worker when what runs has ended.

        Until then the consumer goes on, so that remote control, heartbeats and signals have answers.

        Args:
            how: "exec" to become a new process, "exit" to leave that to a supervisor.
            why: For the log.

        Switches: may, as a log handler does.
        """
        if self._paused:
            return
        self.pause()
        self._recycling, self._drain = how, Deadline.after(self.settings.drain_timeout)
        then = "starts anew" if how == "exec" else "exits"
        _logger.warning("%s; this worker drains and %s", why, then)
        self.stop_consuming()
        if self.settings.drain_timeout is not None:
            gevent.spawn_later(self.settings.drain_timeout, self._end_recycling)
        self._end_if_drained()

    @property
    def recycling(self) -> bool:
        """Tell whether the worker drains to start anew, and nothing else has stopped it."""
        return self._recycling != ""

    def stop_recycling(self) -> None:
        """Leave the end of the worker to what stopped it.

        Switches: never.
        """
        self._recycling = ""

    def _end_if_drained(self) -> None:
        if not self._jobs:
            self._end_recycling()

    def _end_recycling(self) -> None:
        how, self._recycling = self._recycling, ""
        if how:
            end_worker(how)
            if how == "exec" and not (self.app is not None and installed(self.app)):
                start_anew_at_exit()  # without install() nothing looks at the worker's status
            if self.loop is not None:
                self.loop.wake()

    def on_close(self) -> None:
        """Pause; a shutdown by remote control gets here before the consumer waits for its broker."""
        self.stop_recycling()
        self.pause()

    def on_stop(self) -> None:
        """Wait until what runs has ended, at most the drain timeout."""
        self.stop_recycling()
        self.pause()
        deadline = self._drain or Deadline.after(self.settings.drain_timeout)
        while self._jobs and not deadline.expired:
            self._iterate(deadline.remaining())
        if self._jobs:
            _logger.warning(
                "drain timeout (%ss) reached with %d tasks running; they are killed, and the "
                "broker gets the late-acknowledged ones back",
                self.settings.drain_timeout,
                len(self._jobs),
            )
            self.on_terminate()
        self._close()
        self._iterate(0.0)  # the acks of the last to end; there is nothing left to wait for

    def on_terminate(self) -> None:
        """Kill what runs, and give it its grace to clean up."""
        self.stop_recycling()
        self.pause()
        for job in list(self._jobs.values()):
            job.kill()
        deadline = Deadline.after(2 * self.settings.kill_grace)
        while self._jobs and not deadline.expired:
            self._iterate(deadline.remaining())
        self._close()

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            close_resources()

    def _iterate(self, timeout: float) -> None:
        if self.loop is not None and self.loop.owner is gevent.getcurrent():
            # The consumer has stopped and this is its greenlet: heartbeats and the acks of
            # the tasks that end now are sent by no other greenlet.
            try:
                self.loop.iterate(timeout)
            except Exception as exc:
                # kombu counts KeyError as a lost connection. Here it is an event on its way to gossip,
                # which has just stopped (kombu/transport/redis.py 5.7, `_deliver_fanout_message`).
                if isinstance(exc, self.loop.propagate_errors) and not isinstance(exc, KeyError):
                    _logger.warning(
                        "the broker was lost while the pool drains (%r); tasks go on to their end", exc
                    )
                    self.loop = None
                else:
                    _logger.debug("passed over while the pool drains: %r", exc)
                    gevent.sleep(min(timeout, _PAUSE_AFTER_ERROR))
        else:
            self._change.clear()
            self._change.wait(timeout)

    # -- slots ----------------------------------------------------------------

    def _dispatch(self) -> None:
        while self._queue and len(self._jobs) < self.limit and not (self._paused or self._held):
            job = self._queue.popleft()
            self._jobs[job.number] = job  # reserved: a limiter that asks its store lets others in here
            admitted = limiter_of(job.task) is None or self._admitted(job)
            if admitted and not (self._paused or job.dropped):
                job.start(self._done)
            else:
                job.end_permit(None)  # if paused or flushed meanwhile, there is one
                self._free(job)

    def _admitted(self, job: Job) -> bool:
        try:
            return self._quotas.admit(job)
        except Exception as exc:
            job.refusal = exc  # a cost that can never be paid is the task's failure
            return True

    def _retry_admission(self, job: Job) -> None:
        self._queue.appendleft(job)
        self._dispatch()

    def _move_window(self, places: int) -> None:
        self.window(places)
        if self.loop is not None:
            self.loop.wake()

    def _done(self, job: Job) -> None:
        self._ended += 1
        if not self._paused and (why := self._recycler.due(self._ended)):
            self.recycle(self.settings.recycle, why)
        self._free(job)
        self._dispatch()

    def _free(self, job: Job) -> None:
        del self._jobs[job.number]
        self._change.set()
        self._end_if_drained()
        if self._paused and self.loop is not None:
            self.loop.wake()

    def _get_info(self) -> dict[str, Any]:
        return {
            **super()._get_info(),
            "running-tasks": len(self._jobs),
            "waiting-tasks": len(self._queue),
            "limited-tasks": len(self._quotas),
        }


def _check_whole(n: Any) -> None:
    # From a remote control command, which Celery passes on as it came.
    if not isinstance(n, int) or isinstance(n, bool):
        raise TypeError(f"{n!r} is no whole number of slots")
