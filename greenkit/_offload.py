"""Run blocking code in a native thread: C extensions, files, CPU-bound Python.

Greenlets wait cooperatively for a bounded pool of native threads. A native thread cannot be interrupted:
when a caller is killed or times out, its function runs on, keeps its thread and counts as abandoned until it
ends. CPU-bound Python shares the GIL with the hub: it no longer blocks other greenlets, but is no faster.
"""

from __future__ import annotations

import contextvars
import functools
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from gevent.hub import get_hub
from gevent.monkey import get_original, is_module_patched
from gevent.threadpool import ThreadPool
from gevent.timeout import Timeout

from greenkit import facts
from greenkit.errors import WaitTimeout
from greenkit.wait import Deadline, WaitLine, hub_here

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["NativePool", "OffloadStatistics", "offload", "offloaded"]

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class OffloadStatistics:
    """Count what a `NativePool` runs.

    Attributes:
        size: Native threads at most.
        running: Functions that run now, abandoned ones included.
        waiting: Callers that wait for a thread.
        abandoned: Functions that still run although no caller waits for them.
        finished: Functions that ended, with any outcome.
    """

    size: int
    running: int
    waiting: int
    abandoned: int
    finished: int


class NativePool:
    """Hold at most `size` native threads for the greenlets of this process.

    Args:
        size: Threads at most; callers beyond wait in order.
        name: Shown in statistics and errors.
    """

    def __init__(self, size: int, *, name: str = "offload") -> None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"size is {size!r}; a pool needs 1 thread or more")
        self.name = name
        self._slots = WaitLine(size, name=name)
        self._pools: dict[tuple[int, int], ThreadPool] = {}  # (process, hub) → that hub's threads
        self._abandoned = self._finished = 0
        facts.register("offload", self)

    def __repr__(self) -> str:
        now = self.statistics()
        return f"<NativePool {self.name} {now.running}/{now.size} running, {now.abandoned} abandoned>"

    def statistics(self) -> OffloadStatistics:
        """Return what it runs. Switches: never."""
        line = self._slots.statistics()
        return OffloadStatistics(
            line.size, line.size - line.free, line.waiting, self._abandoned, self._finished
        )

    def resize(self, size: int) -> None:
        """Change how many threads there may be; running functions go on. Switches: never."""
        self._slots.resize(size)
        for pool in self._pools.values():
            pool.maxsize = size

    def run(self, fn: Callable[..., T], *args: Any, timeout: float | None = None) -> T:
        """Call `fn(*args)` in a native thread and return the result; see `greenkit.offload()`.

        Switches: may.
        """
        if not callable(fn):
            raise TypeError(f"offload() takes a function and its arguments, not {fn!r}: offload(fn, 1, 2)")
        if timeout is not None and not 0 <= timeout < float("inf"):  # nan fails both comparisons
            raise ValueError(f"timeout is {timeout!r}; it must be 0 or more seconds, or None for no limit")
        deadline = Deadline.after(timeout)
        self._slots.acquire(timeout=deadline.timeout())
        started = False
        try:
            result = self._start(fn, args)
            started = True
        finally:
            if not started:
                self._slots.release()
        return self._wait(result, fn, deadline)

    def _start(self, fn: Callable[..., T], args: tuple[Any, ...]) -> _Call:
        call = _Call(contextvars.copy_context(), fn, args, self._ended)
        hub = get_hub() if is_module_patched("threading") else hub_here()
        if hub is None:
            _start_new_thread(call.run, ())
            return call
        key = (os.getpid(), id(hub))
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = ThreadPool(self._slots.statistics().size, hub)
        call.result = pool.spawn(call.run)
        return call

    def _wait(self, call: _Call, fn: Callable[..., T], deadline: Deadline) -> T:
        try:
            if call.result is not None:
                with Timeout(deadline.timeout(), False):
                    call.result.get()
            else:
                call.ended.wait(deadline.timeout())
        except BaseException:  # killed: the thread runs on
            self._abandon(call)
            raise
        if not call.done:
            self._abandon(call)
            name = getattr(fn, "__qualname__", repr(fn))
            raise WaitTimeout(
                f"{name} did not end in time. A native thread cannot be interrupted: it runs on and keeps 1"
                f" of the {self._slots.statistics().size} threads of {self.name} until it ends"
            )
        if call.error is not None:
            raise call.error
        value: T = call.value
        return value

    def _abandon(self, call: _Call) -> None:
        with call.lock:
            if not call.done:
                call.abandoned = True
                self._abandoned += 1

    def _ended(self, call: _Call) -> None:
        with call.lock:
            call.done = True
            if call.abandoned:
                self._abandoned -= 1
        self._finished += 1
        self._slots.release()


_start_new_thread = get_original("_thread", "start_new_thread")
_native_lock = get_original("_thread", "allocate_lock")


class _Call:
    """One function call in a native thread."""

    __slots__ = (
        "_args", "_context", "_fn", "_on_end", "abandoned", "done", "ended", "error", "lock", "result",
        "value",
    )  # fmt: skip

    def __init__(
        self,
        context: contextvars.Context,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        on_end: Callable[[_Call], None],
    ) -> None:
        self._context, self._fn, self._args, self._on_end = context, fn, args, on_end
        self.abandoned = self.done = False
        self.value: Any = None
        self.error: BaseException | None = None
        self.result: Any = None  # gevent's AsyncResult, where a hub waits
        self.ended = threading.Event()
        self.lock = _native_lock()

    def run(self) -> None:
        """Run in the native thread. Keep an exception in `error`: gevent would also print it."""
        try:
            self.value = self._context.run(self._fn, *self._args)
        except BaseException as error:
            self.error = error
        finally:
            self._on_end(self)
            if self.result is None:
                self.ended.set()


_DEFAULT = NativePool(min(32, (os.cpu_count() or 1) + 4))


def offload(fn: Callable[..., T], /, *args: Any, timeout: float | None = None) -> T:
    """Call `fn(*args)` in a native thread while other greenlets run, and return the result.

    For code that would block the hub: a C extension that waits or computes, a file on a slow disk, CPU-bound
    Python. The threads are one bounded pool of the process (`min(32, processors + 4)`). Context variables are
    passed in.

    Nothing can interrupt a native thread: after a timeout or a kill the function runs on and keeps its
    thread. Not for code that waits in patched functions (sockets, `time.sleep()`): call that directly.

    Args:
        fn: The function. Pass keyword arguments with `functools.partial`.
        args: Its arguments.
        timeout: Seconds to wait for a thread and for the result together; None for no limit.

    Raises:
        WaitTimeout: `timeout` passed.

    Switches: may.
    """
    return _DEFAULT.run(fn, *args, timeout=timeout)


@overload
def offloaded(fn: Callable[P, T], /) -> Callable[P, T]: ...
@overload
def offloaded(
    *, timeout: float | None = None, concurrency: int | None = None
) -> Callable[[Callable[P, T]], Callable[P, T]]: ...
def offloaded(
    fn: Callable[P, T] | None = None, /, *, timeout: float | None = None, concurrency: int | None = None
) -> Any:
    """Make each call of a function run in a native thread; see `offload()`.

    Args:
        fn: The function.
        timeout: Seconds each call may take, waiting for a thread included; None for no limit.
        concurrency: Calls of this function at once, in threads of its own; None shares those of `offload()`.

    Switches: never; calling the function may.
    """

    def decorate(plain: Callable[P, T]) -> Callable[P, T]:
        name = getattr(plain, "__qualname__", repr(plain))
        pool = NativePool(concurrency, name=name) if concurrency is not None else _DEFAULT

        @functools.wraps(plain)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            return pool.run(functools.partial(plain, *args, **kwargs), timeout=timeout)

        return call

    return decorate(fn) if fn is not None else decorate
