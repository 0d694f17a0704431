"""The edges of a task's own code, and what "too many requests" means inside them.

Celery's `autoretry_for` wraps `task.run` and keeps the original as `task._orig_run`; this does the
same from the outside. `run` tells the job where the body begins and ends; the innermost function
turns `WouldWait` and `RateLimited` into a retry before `autoretry_for=(Exception,)` sees them.
"""

from __future__ import annotations

import functools
import random
from typing import TYPE_CHECKING, Any

import gevent
from celery.exceptions import Reject, Retry, SoftTimeLimitExceeded
from celery.utils.log import get_logger

from greenkit.celery._job import Killed, current_job
from greenkit.celery._rate_limits import costs_of, limiter_of
from greenkit.errors import GreenkitError, RateLimited, WouldWait
from greenkit.responses import read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["wrap"]

_logger = get_logger(__name__)
_MARK = "_greenkit_wrapped"
_EXCHANGED = "run", "_orig_run", "retry"
_DEFAULT_PAUSE = 1.0
_LONGEST_PAUSE = 3600.0


def wrap(tasks: Iterable[Any], *, edges: bool, retry_limited: bool) -> None:
    """Wrap `run` of each task, once; must happen before Celery builds the task's tracer.

    Args:
        tasks: Celery tasks.
        edges: Tell the job where the body is (green pools only).
        retry_limited: Retry on `WouldWait` and `RateLimited`.
    """
    for task in tasks:
        if hasattr(task, _MARK) or task.name.startswith("celery."):
            continue
        kept = {name: vars(task)[name] for name in _EXCHANGED if name in vars(task)}
        if retry_limited:
            inner = "_orig_run" if hasattr(task, "_orig_run") else "run"
            setattr(task, inner, _retrying(task, getattr(task, inner)))
        task.retry = _requeueing(task.retry)
        if edges:
            task.run = _edged(task.run)
        setattr(task, _MARK, kept)


def unwrap(tasks: Iterable[Any]) -> None:
    """Give each task its own `run` back."""
    for task in tasks:
        kept = vars(task).pop(_MARK, None)
        if kept is not None:
            for name in _EXCHANGED:
                vars(task).pop(name, None)  # what is left is the class's
            vars(task).update(kept)


def _edged(run: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(run)
    def body(*args: Any, **kwargs: Any) -> Any:
        job = current_job()
        # Greenlets of a task may run other tasks' bodies, also when the task itself has ended.
        if job is None or job.greenlet is not gevent.getcurrent() or not job.enter_body():
            return run(*args, **kwargs)
        try:
            result = run(*args, **kwargs)
            job.settle_children()
            return result
        except BaseException as exc:
            job.end_permit(_told(exc))
            job.settle_children(too_late=isinstance(exc, (Killed, SoftTimeLimitExceeded)))
            raise
        finally:
            job.leave_body()

    return body


def _told(error: BaseException) -> BaseException:
    # A retry is how a task answers an error; what the limiter must hear is the error, such as a 429.
    cause = error.exc if isinstance(error, Retry) else None
    return cause if isinstance(cause, BaseException) else error


def _requeueing(retry: Callable[..., Any]) -> Callable[..., Any]:
    """Give a task back whose retry cannot be sent, because the broker is away.

    Celery rejects its message without requeueing (celery/app/task.py 5.7, `Task.retry`), and a task
    that acknowledges late is lost, though its message is still there.
    """

    @functools.wraps(retry)
    def retry_or_requeue(*args: Any, **kwargs: Any) -> Any:
        try:
            return retry(*args, **kwargs)
        except Reject as exc:
            if exc.requeue:
                raise
            raise Reject(exc.reason, requeue=True) from exc

    return retry_or_requeue


def _retrying(task: Any, run: Callable[..., Any]) -> Callable[..., Any]:
    def permitted(*args: Any, **kwargs: Any) -> Any:
        limiter, job = limiter_of(task), current_job()
        request = task.request
        if limiter is None or job is not None or request.called_directly or request.is_eager:
            return run(*args, **kwargs)
        permit = limiter.try_permit(**costs_of(task, request.args, request.kwargs))
        if not permit:
            raise WouldWait(f"limit {limiter.name!r} is full", eta=permit.retry_after)
        with permit:
            return run(*args, **kwargs)

    @functools.wraps(run)
    def limited(*args: Any, **kwargs: Any) -> Any:
        try:
            return permitted(*args, **kwargs)
        except Exception as exc:
            seconds = _pause_of(exc)
            if seconds is None:
                raise
            return _come_back(task, exc, seconds)

    return limited


def _pause_of(exc: Exception) -> float | None:
    """Return how long to stay away when `exc` says "come back later", None for any other."""
    if isinstance(exc, WouldWait):
        return exc.eta
    if isinstance(exc, GreenkitError) and not isinstance(exc, RateLimited):
        return None
    answer = read(exc)
    return _sane(answer.retry_after) if answer.later else None


def _sane(seconds: float | None) -> float:
    # A countdown of a day would keep the message in the memory of a worker for as long.
    return _DEFAULT_PAUSE if seconds is None else min(seconds, _LONGEST_PAUSE)


def _come_back(task: Any, exc: Exception, seconds: float) -> Any:
    """Send the task again with a countdown, and free its slot.

    What `Task.retry` does (celery/app/task.py), but `retries` stays as it was: waiting for a
    quota is not a failed attempt, and `max_retries` is for those.
    """
    request = task.request
    if request.called_directly or request.is_eager:
        raise exc
    # Tasks refused at the same moment must not return at the same moment.
    countdown = max(0.0, seconds) * (1.0 + 0.1 * random.random())
    retry = task.signature_from_request(request, countdown=countdown, retries=request.retries)
    try:
        retry.apply_async()
    except Exception as error:
        raise Reject(error, requeue=True) from exc
    raise Retry(exc=exc, when=countdown, sig=retry) from exc
