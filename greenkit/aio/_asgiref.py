"""Patch asgiref so that Django's bridges between sync and async work in greenlets.

It changes three things. Executors with one worker become greenlets that start without a switch: starting a
patched thread switches, and a kill could fall between submitting a coroutine and waiting for it. A greenlet
that is killed, or times out, inside `async_to_sync` cancels its coroutine and joins it for a while; asgiref
leaves it running. Thread-sensitive code under a bare `asyncio.run()` gets one worker per loop; asgiref's
single worker per process would serialise the ORM calls of all greenlets.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import gevent
from gevent.event import Event

from greenkit.aio._green_loop import GreenLoop, at_close
from greenkit.aio._work_items import GreenWorker, interrupted_after
from greenkit.wait import hub_here

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

__all__ = ["GRACE", "install_asgiref", "uninstall_asgiref"]

GRACE = 5.0  # seconds a cancelled coroutine has to end before its greenlet stops waiting
_log = logging.getLogger("greenkit.aio")
_undo: list[Callable[[], None]] = []


def install_asgiref() -> None:
    """Patch `asgiref.sync`, once; called after its import in a patched process.

    If asgiref's private names have changed, leave it unpatched and log a warning.

    Switches: never.
    """
    sync: Any = sys.modules["asgiref.sync"]
    if _undo:
        return
    executor_class = getattr(sync, "CurrentThreadExecutor", None)
    bridge = getattr(sync, "AsyncToSync", None)
    if not (
        _takes(getattr(bridge, "main_wrap", None), "call_result")
        and _takes(getattr(executor_class, "run_until_future", None), "future")
        and hasattr(sync, "ThreadPoolExecutor")
        and isinstance(getattr(bridge, "loop_thread_executors", None), dict)
        and isinstance(getattr(sync.SyncToAsync, "single_thread_executor", None), Executor)
    ):
        _log.warning(
            "asgiref %s is not known to greenkit: a killed greenlet leaves the coroutine of its async_to_sync"
            " running, and sync_to_async under a bare asyncio.run() waits for one worker of the process",
            getattr(sys.modules["asgiref"], "__version__", "?"),
        )
        return
    _replace(sync, "ThreadPoolExecutor", _single_worker(sync.ThreadPoolExecutor))
    _replace(bridge, "main_wrap", _main_wrap(bridge))
    _replace(executor_class, "run_until_future", _run_until_future(executor_class))
    workers = _LoopWorkers(sync.SyncToAsync.single_thread_executor)
    _replace(sync.SyncToAsync, "single_thread_executor", workers)
    at_close.append(workers.close)
    _undo.append(lambda: at_close.remove(workers.close))


def uninstall_asgiref() -> None:
    """Put back what `install_asgiref()` replaced.

    Switches: never.
    """
    while _undo:
        _undo.pop()()


def _takes(function: Any, name: str) -> bool:
    if not inspect.isfunction(function):
        return False
    return list(inspect.signature(function).parameters)[1:2] == [name]


def _replace(owner: Any, name: str, new: Any) -> None:
    old = vars(owner)[name]
    setattr(owner, name, new)
    _undo.append(lambda: setattr(owner, name, old))


def _main_wrap(bridge: Any) -> Any:
    plain = bridge.main_wrap

    async def main_wrap(self: Any, call_result: Any, *rest: Any) -> None:
        task = asyncio.current_task()
        # A call in its own loop is identified by the executor, a call in the outer loop by its future.
        executor = bridge.loop_thread_executors.get(asyncio.get_running_loop())
        for place in (call_result, executor):
            if place is not None:
                place.greenkit_task = task
                if getattr(place, "greenkit_killed", False):
                    rest[-1].close()  # the caller was killed before its coroutine began, so it must not begin
                    call_result.cancel()
                    raise asyncio.CancelledError
        await plain(self, call_result, *rest)

    return main_wrap


def _run_until_future(executor_class: Any) -> Any:
    plain = executor_class.run_until_future

    def run_until_future(self: Any, future: Future[Any]) -> None:
        try:
            plain(self, future)
        except BaseException:  # thrown into this greenlet; work items keep their errors in their futures
            if hub_here() is not None and not future.done():
                _cancel_and_join(self, future, plain)
            raise

    return run_until_future


def _cancel_and_join(executor: Any, future: Any, plain: Any) -> None:
    executor.greenkit_killed = future.greenkit_killed = True
    task = getattr(future, "greenkit_task", None) or getattr(executor, "greenkit_task", None)
    with interrupted_after(GRACE):
        if task is not None:
            _cancel(task, executor)
        executor._broken = False  # the coroutine's `finally` may still need sync code run here
        plain(executor, future)
    if not future.done():
        _log.warning(
            "a coroutine under async_to_sync did not end within %g s of being cancelled: %r", GRACE, task
        )


def _cancel(task: asyncio.Task[Any], executor: Any) -> None:
    """Cancel `task` in its loop, and the calls it submitted to `executor`, which must not begin now."""
    delivered = Event()

    def cancel() -> None:
        task.cancel()
        for item in list(getattr(executor, "_work_items", ())):
            item.future.cancel()
        delivered.set()

    task.get_loop().call_soon_threadsafe(cancel)
    delivered.wait()


def _single_worker(stock: Any) -> Any:
    def make(max_workers: int | None = None, *args: Any, **kwargs: Any) -> Executor:
        green = max_workers == 1 and not args and not kwargs and hub_here() is not None
        return GreenWorker() if green else stock(max_workers, *args, **kwargs)

    return make


class _LoopWorkers(Executor):
    """Run thread-sensitive code in one worker per loop that runs in a greenlet."""

    def __init__(self, shared: Executor) -> None:
        self._shared = shared  # asgiref's own executor, for loops of native threads
        self._workers: WeakKeyDictionary[Any, GreenWorker] = WeakKeyDictionary()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        loop = asyncio.get_running_loop()  # run_in_executor() calls from the loop's own greenlet
        if not isinstance(loop, GreenLoop):
            return self._shared.submit(fn, *args, **kwargs)
        worker = self._workers.get(loop)
        if worker is None:
            worker = self._workers[loop] = GreenWorker()
        return worker.submit(fn, *args, **kwargs)

    def close(self, loop: asyncio.AbstractEventLoop) -> None:
        """End the worker of `loop`, and the database connections it opened."""
        worker = self._workers.pop(loop, None)
        if worker is None:
            return
        if "django.db" in sys.modules:
            closing = worker.submit(sys.modules["django.db"].connections.close_all)
            with gevent.Timeout(GRACE, False):  # the worker may still run a call of a killed loop
                closing.exception()
        worker.shutdown(wait=False)
