"""One long-lived asyncio loop for the greenlets of a native thread.

A new loop per call would lose what async clients keep between calls: connections, TLS sessions, the receive
task of a Redis layer. Here one `GreenLoop` runs in its own greenlet; `run()` submits a coroutine and waits.
In an unpatched process the loop runs in a native thread, so that it also runs between calls.
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import logging
import os
import sys
import threading
from collections import deque
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import gevent
from gevent.event import Event
from gevent.hub import get_hub
from gevent.monkey import is_module_patched

from greenkit import facts
from greenkit.aio._green_loop import GreenLoop
from greenkit.aio._watchers import task_watchers
from greenkit.aio._work_items import interrupted_after, run_item
from greenkit.boot import isolate_loops
from greenkit.errors import GreenkitError, WaitTimeout
from greenkit.wait import Deadline, Mailbox, hub_here

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

__all__ = ["LoopStatistics", "Portal", "portal", "portal_if_started"]

T = TypeVar("T")
_log = logging.getLogger("greenkit.aio")


@dataclass(frozen=True, slots=True)
class LoopStatistics:
    """Count the coroutines of this thread's loop.

    Attributes:
        running: Coroutines that greenlets wait for now.
        finished: Coroutines that ended with a result or an exception.
        cancelled: Coroutines cancelled because their greenlet was killed or ran out of time.
        abandoned: Of those, how many did not end within the grace; they may still run.
        tasks: asyncio tasks on the loop, including those that coroutines left running.
    """

    running: int
    finished: int
    cancelled: int
    abandoned: int
    tasks: int


class _Caller(Executor):
    """The waiting greenlet or thread; meanwhile it runs the calls asgiref submits to it."""

    __slots__ = ("_hub", "_items", "_signal", "done", "held", "sensitive")

    def __init__(self) -> None:
        self._hub = get_hub() if is_module_patched("threading") else hub_here()
        self._items: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._signal: Any = Event() if self._hub is not None else threading.Event()
        self.done = False
        self.held = False  # run no calls: their coroutine is about to be cancelled
        self.sensitive: Any = None

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        if self.done:
            raise RuntimeError(
                "the greenlet that called aio.run() no longer waits; its sync code cannot run there"
            )
        self._items.append((future, lambda: fn(*args, **kwargs)))
        self.notify()
        return future

    def finish(self) -> None:
        self.done = True
        self.notify()

    def forget(self) -> None:
        """Cancel the submitted calls that have not begun, and run later ones again."""
        while self._items:
            self._items.popleft()[0].cancel()
        self.held = False
        self.notify()

    def notify(self) -> None:
        if self._hub is None or self._hub is hub_here():
            self._signal.set()
        else:  # the loop runs in another native thread, whose hub may not touch this one
            Mailbox.of(self._hub).post(self._signal.set)

    def wait(self, deadline: Deadline) -> bool:
        """Run submitted calls until the coroutine ends; tell whether it ended before `deadline`."""
        # Without this the hub would raise LoopExit: it does not know that another thread will send.
        mailbox = (
            Mailbox.of(self._hub) if self._hub is not None and not is_module_patched("threading") else None
        )
        if mailbox is None:
            return self._wait(deadline)
        mailbox.keep_alive()
        try:
            return self._wait(deadline)
        finally:
            mailbox.let_go()

    def _wait(self, deadline: Deadline) -> bool:
        while True:
            self._signal.clear()
            while self._items and not self.held:
                self._run(*self._items.popleft(), deadline)
            if self.done:
                return True
            if not self._signal.wait(deadline.timeout()) and not self.done and deadline.expired:
                return False

    def _run(self, future: Future[Any], call: Callable[[], Any], deadline: Deadline) -> None:
        with interrupted_after(deadline.timeout() if self._hub is not None else None):
            run_item(future, call)
        killed = None if future.cancelled() else future.exception()
        if isinstance(killed, gevent.GreenletExit):
            raise killed  # the kill was meant for this greenlet, not only for the coroutine


class Portal:
    """Hold one loop and the greenlet, or native thread, that runs it.

    Get it with `portal()`.
    """

    name = "loop"

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._running = self._finished = self._cancelled = self._abandoned = 0
        self._stopped = False
        started = threading.Event()
        if is_module_patched("threading"):
            self.loop: asyncio.AbstractEventLoop = GreenLoop()
            self._runner: Any = gevent.spawn(self._serve, started)
            self._runner.name = "greenkit.aio"
        else:
            self.loop = asyncio.SelectorEventLoop()
            self._runner = threading.Thread(
                target=self._serve, args=(started,), name="greenkit.aio", daemon=True
            )
            self._runner.start()
        self.loop.set_task_factory(_new_task)
        facts.register("aio", self)

    def _serve(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self.loop)
        started.set()
        self.loop.run_forever()

    @property
    def usable(self) -> bool:
        """Tell whether coroutines can be submitted: not after `close()`, nor in a forked child."""
        return not self._stopped and self._pid == os.getpid()

    def statistics(self) -> LoopStatistics:
        """Return the counts."""
        return LoopStatistics(
            self._running,
            self._finished,
            self._cancelled,
            self._abandoned,
            len(asyncio.all_tasks(self.loop)) if not self.loop.is_closed() else 0,
        )

    def __repr__(self) -> str:
        now = self.statistics()
        return f"<Portal {now.running} running, {now.tasks} tasks>"

    def run(self, coroutine: Coroutine[Any, Any, T], *, deadline: Deadline, grace: float) -> T:
        """Run `coroutine` on the loop and return its result; see `greenkit.aio.run()`."""
        caller = _Caller()
        context = contextvars.copy_context()
        caller.sensitive = _send_sync_code_to(caller, context)  # asgiref holds a weak reference
        task: list[asyncio.Task[T]] = []
        killed: list[bool] = []

        def start() -> None:
            if killed:
                coroutine.close()
                caller.finish()
                return
            # 3.10 has no context argument: a task copies the context it is made in. Not create_task(): its
            # watchers are for tasks that may be left running, and this one is awaited.
            made = context.run(_task_of, _in_context(coroutine, context, seen), self.loop)
            task.append(made)
            made.add_done_callback(lambda _: caller.finish())

        seen: list[contextvars.Context] = []
        self._running += 1
        try:
            self.loop.call_soon_threadsafe(start)
            in_time = caller.wait(deadline)
        except BaseException:  # killed, or the caller's gevent.Timeout
            killed.append(True)
            self._cancel(task, caller, grace)
            raise
        finally:
            self._running -= 1
        if not in_time:
            killed.append(True)
            self._cancel(task, caller, grace)
            raise WaitTimeout(
                f"{_name(coroutine)} did not end in time; it was cancelled. Give aio.run() a longer timeout,"
                " or the call inside a shorter one of its own"
            )
        self._finished += 1
        if seen:
            _take_over(seen[0])
        return task[0].result()

    def _cancel(self, task: list[asyncio.Task[T]], caller: _Caller, grace: float) -> None:
        """Cancel a coroutine whose caller gives up, and wait for its end: its `finally` may await."""
        self._cancelled += 1

        def cancel() -> None:
            task[0].cancel()
            caller.forget()

        if task:
            # Sync calls it has submitted must not begin now: they could wait for ever.
            caller.held = True
            self.loop.call_soon_threadsafe(cancel)
        if not caller.wait(Deadline.after(grace)):
            self._abandoned += 1
            _log.warning(
                "%s did not end within %g s of being cancelled, and goes on: %s",
                _name(task[0].get_coro() if task else None),
                grace,
                _where(task[0]) if task else "it has not begun",
            )
        elif task and not task[0].cancelled():
            task[0].exception()  # retrieve it, or asyncio logs that it was never retrieved

    def close(self, *, grace: float) -> None:
        """Cancel every task, finish async generators, close the loop; for exit and draining workers."""
        if not self.usable:
            return
        self._stopped = True
        ended = asyncio.run_coroutine_threadsafe(self._end(grace), self.loop)
        try:
            ended.result(grace + 1.0)
        except BaseException:
            _log.warning("the asyncio loop of greenkit.aio did not end within %g s", grace)
            if not isinstance(sys.exc_info()[1], Exception):
                raise
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._runner.join(1.0)
        if not self.loop.is_running():
            self.loop.close()

    async def _end(self, grace: float) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=grace)
        await self.loop.shutdown_asyncgens()
        await self.loop.shutdown_default_executor()


def _task_of(coroutine: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> asyncio.Task[T]:
    return asyncio.Task(coroutine, loop=loop)


def _new_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
    """Make a task as the loop itself would, and call the watchers."""
    task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **options)
    for watcher in task_watchers:
        watcher(task)
    return task


async def _in_context(
    coroutine: Awaitable[T], given: contextvars.Context, seen: list[contextvars.Context]
) -> T:
    _take_over(given)
    try:
        return await coroutine
    finally:
        seen.append(contextvars.copy_context())


def _take_over(context: contextvars.Context) -> None:
    """Copy the variables of `context`; asgiref's function also moves its thread-bound `Local` values."""
    restore = getattr(sys.modules.get("asgiref.sync"), "_restore_context", None)
    if restore is not None:
        restore(context)
        return
    for variable, value in context.items():
        try:
            same = variable.get() is value
        except LookupError:
            same = False
        if not same:
            variable.set(value)


def _send_sync_code_to(caller: _Caller, context: contextvars.Context) -> Any:
    """Have asgiref run thread-sensitive code in the waiting greenlet, on its own Django connection."""
    sync: Any = sys.modules.get("asgiref.sync")
    bridge = getattr(sync, "SyncToAsync", None)
    if bridge is None or not hasattr(bridge, "context_to_thread_executor"):
        return None
    sensitive = sync.ThreadSensitiveContext()
    bridge.context_to_thread_executor[sensitive] = caller  # a weak mapping: the entry ends with the caller
    context.run(bridge.thread_sensitive_context.set, sensitive)
    return sensitive


def _name(coroutine: Any) -> str:
    return getattr(coroutine, "__qualname__", None) or repr(coroutine)


def _where(task: asyncio.Task[Any]) -> str:
    stack = task.get_stack(limit=1)
    return f"{stack[0].f_code.co_filename}:{stack[0].f_lineno}" if stack else repr(task)


_shared: list[Portal] = []  # the portal of an unpatched process
_making = threading.Lock()


def portal() -> Portal:
    """Return the portal of this native thread, or of an unpatched process; started at the first call."""
    if is_module_patched("threading"):
        _need_isolation()
        hub = get_hub()
        here: Portal | None = getattr(
            hub, "greenkit_portal", None
        )  # stored on the hub, so that both end together
        if here is None or not here.usable:
            here = hub.greenkit_portal = Portal()
            atexit.register(here.close, grace=1.0)
        return here
    with _making:
        if not _shared or not _shared[-1].usable:
            _shared[:] = [Portal()]
            atexit.register(_shared[-1].close, grace=1.0)
        return _shared[-1]


def _need_isolation() -> None:
    """Refuse where greenlets share the running loop: it would break code that uses no asyncio."""
    state = isolate_loops()  # isolates now if greenkit.auto was not imported
    if not state.installed:
        why = state.failed or f"GREENKIT_ASYNCIO={state.mode}"
        raise GreenkitError(
            f"greenkit.aio cannot run a loop among greenlets: they share asyncio's running loop ({why}), so"
            " Django's ORM and every other loop would be refused while it runs. Set GREENKIT_ASYNCIO=on, or"
            " call greenkit.offload(asyncio.run, coroutine)"
        )


def portal_if_started() -> Portal | None:
    """Return the portal of this thread or process, or None when it was never used."""
    if is_module_patched("threading"):
        here: Portal | None = getattr(hub_here(), "greenkit_portal", None)
    else:
        here = _shared[-1] if _shared else None
    return here if here is not None and here.usable else None
