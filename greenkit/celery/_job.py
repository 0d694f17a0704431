"""One task on its way through the pool: its greenlet, its limits, its end.

A limit or a kill lands in the *body* of a task and nowhere else: not in Celery's own writing of
the result, where it would leave a task both succeeded and failed. The body's edges are known
because `run` of every task is wrapped (`_task_body.py`); between them the job may be struck, before
them a stroke waits, after them it is too late.
"""

from __future__ import annotations

import itertools
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

import gevent
from billiard.einfo import ExceptionInfo
from billiard.exceptions import SoftTimeLimitExceeded, WorkerLostError
from celery.utils.log import get_logger

from greenkit.celery._child_greenlets import Children, here_runs, job_here, job_of
from greenkit.celery._options import LONGEST_LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable

    from greenkit.limits import Permit

__all__ = ["Job", "Killed", "current_job", "current_permit", "current_task_id"]

_logger = get_logger(__name__)
_numbers = itertools.count(1)


class Killed(gevent.GreenletExit):  # type: ignore[misc]  # gevent's types are partial
    """End a task from outside: its hard time limit, a revoke, or the worker's shutdown.

    A `GreenletExit`, so that neither `except Exception` nor `except gevent.Timeout` in a task
    swallows it.
    """


class JobGreenlet(gevent.Greenlet):  # type: ignore[misc]  # as above
    """Carry a job, so that the code running in a task can find it."""

    job: Job


def current_job() -> Job | None:
    """Return the job whose task runs in this greenlet, or started it or this coroutine; None elsewhere.

    Switches: never.
    """
    greenlet = gevent.getcurrent()
    job = getattr(greenlet, "job", None) or job_of(greenlet) or job_here()
    return cast("Job | None", job)


def current_permit() -> Permit | None:
    """Return the permit of the running task that was declared with `limits`, to settle its cost.

    Switches: never.
    """
    job = current_job()
    return None if job is None else job.permit


def current_task_id() -> str | None:
    """Return the id of the task that runs in this greenlet, or started it or this coroutine; else None.

    Celery's `current_task` is None in greenlets a task starts.

    Switches: never.
    """
    job = current_job()
    return None if job is None else job.task_id


class Job:
    """Run one task in one greenlet, and end it when told.

    Celery's request keeps a weak reference to it and may call `terminate(signal)`.

    Args:
        target: Celery's tracer; returns (failed, value, runtime).
        args: Its arguments.
        hooks: The request's callbacks: `accept`, `success`, `failure`, `timeout`.
        request: Celery's request, or None; asked once more before the start whether it was revoked.
        limit: Hard limit in seconds, or None.
        soft_limit: Soft limit in seconds, or None.
        grace: Seconds between two kills of a task that is over its hard limit.
        left: What happens to greenlets the task leaves behind (see `Options.children`).
    """

    __slots__ = (
        "__weakref__", "_deadline", "_doom", "_in_body", "_left", "_limit", "_noted", "_soft_due",
        "_soft_limit", "_timers", "args", "begun", "children", "dropped", "grace", "greenlet", "hooks",
        "limiter_waited", "number", "permit", "refusal", "request", "started", "target",
    )  # fmt: skip

    def __init__(
        self,
        target: Callable[..., Any],
        args: Any,
        *,
        hooks: dict[str, Callable[..., Any]],
        limit: float | None,
        soft_limit: float | None,
        grace: float,
        request: Any = None,
        left: str = "ignore",
    ) -> None:
        self.target = target
        self.args = args
        self.hooks = hooks
        self.grace = grace
        self.request = request
        self.number = next(_numbers)
        self.children = Children()
        self.limiter_waited = 0.0  # seconds, while it is listened for (`_log_fields.py`)
        self.permit: Permit | None = None
        self.refusal: Exception | None = None
        self.greenlet: JobGreenlet | None = None
        self.started: float | None = None
        self.begun = self.dropped = False
        self._left = left
        self._limit = limit
        self._soft_limit = soft_limit
        self._deadline: float | None = None
        self._doom: str | None = None
        self._soft_due = False
        self._in_body = False
        self._noted = False
        self._timers: list[Any] = []

    def __repr__(self) -> str:
        state = self._doom or ("body" if self._in_body else "queued" if self.started is None else "edge")
        return f"<Job {self.number} {state}>"

    @property
    def task(self) -> Any:
        """Return the Celery task, or None when the request is not Celery's."""
        return getattr(self.request, "task", None)

    @property
    def home(self) -> str:
        """Return the package the task is defined in, "" when that is unknown."""
        return str(getattr(self.task, "__module__", "")).partition(".")[0]

    @property
    def task_id(self) -> str:
        """Return the id of the request."""
        return str(getattr(self.request, "id", self.number))

    @property
    def killed(self) -> bool:
        """Tell whether `kill()` was called: the job ends without a word to the broker."""
        return self._doom == "terminated"

    def arguments(self) -> tuple[Any, Any]:
        """Return the positional and the keyword arguments of the call."""
        return self.request.args, self.request.kwargs

    def start(self, done: Callable[[Job], None]) -> None:
        """Run the task in a greenlet of its own; `done(job)` is called when it has ended.

        Switches: never.
        """
        self.greenlet = greenlet = JobGreenlet(self._run, done)
        greenlet.job = self
        self.children.root(greenlet, self)
        greenlet.start()

    def terminate(self, signal: int | None = None) -> None:
        """Do nothing: Celery calls this after `TaskPool.terminate_job`, which did the work."""

    def settle_children(self, *, too_late: bool = False) -> None:
        """Deal with the greenlets the task leaves behind, still within its limits.

        Args:
            too_late: The task's own time is up; who would be joined is killed.

        Switches: may.
        """
        policy = "kill" if too_late and self._left == "join" else self._left
        self.children.settle(policy, str(getattr(self.task, "name", self.task_id)))

    def end_permit(self, error: BaseException | None) -> None:
        """Give the task's permit back, and tell its limiter how the call ended.

        Switches: never.
        """
        permit, self.permit = self.permit, None
        if permit is not None:
            permit.__exit__(None if error is None else type(error), error, None)

    # -- strokes --------------------------------------------------------------

    def kill(self) -> None:
        """End the task at its next switch point; none of the request's callbacks is called.

        Switches: never.
        """
        if self._doom is None:
            self._doom = "terminated"
        gevent.get_hub().loop.run_callback(self._strike)

    def enter_body(self) -> bool:
        """Mark that the task's own code begins; False when it already has (a nested call)."""
        if self._in_body:
            return False
        self._in_body = True
        if self._doom is not None:
            self._in_body = False
            if self._doom == "time limit":
                self._note_limit()  # before Celery's postrun, as where it passes in the body
            raise Killed(self._doom)
        if self._soft_due:
            self._soft_due = False
            self._in_body = False
            raise SoftTimeLimitExceeded(self._soft_limit)
        return True

    def leave_body(self) -> None:
        """Mark that the task's own code has ended, and note a time limit before Celery's postrun.

        Raises:
            Killed: The task swallowed its kill, or overran its hard limit without one switch;
                it must not end as a success.
        """
        self._in_body = False
        if self._doom is None and self._deadline is not None and monotonic() >= self._deadline:
            self._doom = "time limit"
        if self._doom == "time limit":
            self._note_limit()
        if self._doom is not None:
            raise Killed(self._doom)

    def _note_limit(self) -> None:
        if not self._noted:
            self._noted = True
            self._call("timeout", False, self._limit)

    def _on_limit(self) -> None:
        if self._doom is None:
            self._doom = "time limit"
        self._strike()

    def _on_soft_limit(self) -> None:
        if self._doom is not None:
            return
        # Logging may wait for a handler's lock, and this is the hub.
        gevent.spawn_raw(self._call, "timeout", True, self._soft_limit)
        if self._in_body and self.greenlet is not None:
            self.greenlet.throw(SoftTimeLimitExceeded(self._soft_limit))
        else:
            self._soft_due = True

    def _strike(self) -> None:
        # Runs in the hub, so that looking at _in_body and throwing are one step.
        if self._in_body and self.greenlet is not None:
            # Cleaning up is allowed, once per grace; a finally that sleeps for ever is not.
            self._timer(self.grace, self._strike)
            self.greenlet.throw(Killed(self._doom))

    # -- the run --------------------------------------------------------------

    def _run(self, done: Callable[[Job], None]) -> None:
        try:
            self.begun = not self.dropped
            if self.begun and not self._is_revoked():
                self.started = monotonic()
                here_runs(self)
                self._arm()
                self._call("accept", self.number, self.started)
                self._finish(*self._outcome())
        finally:
            self.end_permit(None)
            for timer in self._timers:
                timer.close()
            self._timers.clear()
            self.greenlet = None  # the two hold each other
            done(self)

    def _is_revoked(self) -> bool:
        """Ask what Celery asked when it queued the task here; it may have changed meanwhile."""
        try:
            return self.request is not None and bool(self.request.revoked())
        except Exception:
            # Not run, not acknowledged: the broker gives it out again when the backend is back.
            _logger.exception("could not note that task %s was revoked", self.task_id)
            return True

    def _outcome(self) -> tuple[str, Any]:
        try:
            if self.refusal is not None:
                raise self.refusal
            result = self.target(*self.args)
        except Killed:
            if self._doom == "time limit":
                self._note_limit()
            return "nothing", None
        except (SystemExit, KeyboardInterrupt) as exc:
            return "failure", _lost(exc)
        except BaseException as exc:  # gevent.Timeout, CancelledError, ...: nothing but the task ends
            if isinstance(exc, gevent.Timeout):
                exc.args = (exc.seconds,)  # all a result keeps of an exception is its arguments
            return "failure", ExceptionInfo()
        return ("nothing", None) if self.killed else ("success", result)

    def _finish(self, how: str, value: Any) -> None:
        if how != "nothing":
            self._call(how, value)

    def _call(self, hook: str, *args: Any) -> None:
        call = self.hooks.get(hook)
        if call is None:
            return
        try:
            call(*args)
        except MemoryError as exc:
            # Celery raises it again instead of acknowledging (Request.on_failure, 5.7); the result
            # is stored, so that only the event and the ack are left to do.
            if hook == "success":
                self._call("failure", _info(RuntimeError(f"MemoryError: {exc}")), True, True)
        except Exception:
            # A slot must not be lost because the result backend is away.
            _logger.exception("Celery could not note the end (%s) of a task", hook)

    def _arm(self) -> None:
        """Start the timers of the limits; one that is none is the task's failure, not its greenlet's."""
        try:
            soft, hard = _limit(self._soft_limit, "soft_time_limit"), _limit(self._limit, "time_limit")
        except (TypeError, ValueError) as exc:
            self.refusal = self.refusal or exc
            return
        if soft:
            self._timer(soft, self._on_soft_limit)
        if hard:
            self._deadline = monotonic() + hard
            self._timer(hard, self._on_limit)

    def _timer(self, seconds: float, action: Callable[[], None]) -> None:
        timer = gevent.get_hub().loop.timer(seconds)
        timer.start(action)
        self._timers.append(timer)


def _limit(value: Any, name: str) -> float:
    """Return seconds, 0 for no limit: from a declaration, a message, a command, which nothing else checks."""
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is {value!r}; it must be a number of seconds")
    if not value >= 0:  # NaN is not either
        raise ValueError(f"{name} is {value!r}; it must be seconds, at least 0")
    return 0.0 if value > LONGEST_LIMIT else float(value)


def _lost(exc: BaseException) -> ExceptionInfo:
    """Return what prefork makes of a child that left: a result, an ack decision, no ghost."""
    return _info(WorkerLostError(repr(exc)))


def _info(error: Exception) -> ExceptionInfo:
    try:
        raise error
    except type(error):
        info = ExceptionInfo()
        # billiard wraps it for a pipe, and prefork's pipe unwraps it. Celery 5.5 stores what it gets here,
        # and no serializer knows the wrapper: the task had no result (celery/worker/request.py, on_failure).
        info.exception = error
        return info
