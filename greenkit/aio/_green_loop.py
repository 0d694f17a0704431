"""An asyncio event loop that waits in gevent's hub.

asyncio's own loop on gevent's selector works, but needs two descriptors per loop and 17 µs per iteration,
most of it a timer for `select(0)`. This loop registers its descriptors with the hub, is woken without a
socket pair, and yields to the hub once a millisecond while its own callbacks are ready.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import subprocess
import time
from collections import deque
from threading import get_native_id
from typing import TYPE_CHECKING, Any, cast

import gevent
from gevent.event import Event
from gevent.hub import get_hub
from gevent.monkey import get_original

from greenkit.wait import hub_here

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["GreenLoop", "GreenSelector", "at_close", "greenlets_live_here", "new_loop"]

_native_thread: Callable[[], int] = get_original("_thread", "get_ident")
_monotonic = time.perf_counter
_YIELD_EVERY = 0.001  # seconds a loop may run ready callbacks before it yields to the hub
_BUSY_HUB = 0.005  # seconds a hub iteration may take before a loop yields once more

at_close: list[Callable[[asyncio.AbstractEventLoop], object]] = []
"""Called with each `GreenLoop` before it closes, in the greenlet that closes it."""


class GreenSelector(selectors._BaseSelectorImpl):
    """Wait for descriptors in the hub of the running thread, and be woken from any thread.

    A watcher that fired is stopped until the next `select()`: otherwise unread bytes would keep the hub from
    sleeping while this loop's greenlet does something else.
    """

    def __init__(self) -> None:
        super().__init__()
        self._hub: Any = (
            None  # bound at the first select(): a loop may be made in another thread than it runs in
        )
        self._thread = 0
        self._watchers: dict[int, Any] = {}  # fd → watcher
        self._stopped: set[int] = set()  # fds whose watcher must be started before the next wait
        self._events: dict[int, int] = {}  # fd → events seen since the last select()
        self._ready = Event()
        self._woken_remotely = False
        self._waker: Any = None
        self._yielded = _monotonic()
        self.loop: Any = None  # the GreenLoop that waits here

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Register as `selectors.BaseSelector` does."""
        key: selectors.SelectorKey = super().register(fileobj, events, data)
        if self._hub is not None:
            self._watch(key.fd, events)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """Unregister as `selectors.BaseSelector` does."""
        key: selectors.SelectorKey = super().unregister(fileobj)
        watcher = self._watchers.pop(key.fd, None)
        if watcher is not None:
            watcher.stop()
            watcher.close()
        self._stopped.discard(key.fd)
        self._events.pop(key.fd, None)
        return key

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return the ready keys after at most `timeout` seconds; None waits without limit.

        With `timeout` 0 it switches only once a millisecond.
        """
        hub = get_hub()
        if hub is not self._hub:
            self._bind(hub)
        for fd in self._stopped:
            self._watchers[fd].start(self._fired, fd, pass_events=True)
        self._stopped.clear()
        if (timeout is not None and timeout <= 0) or self._ready.is_set() or self._woken_remotely:
            if _monotonic() - self._yielded >= _YIELD_EVERY:
                gevent.sleep(0)
                self._yielded = _monotonic()
        else:
            self._wait(timeout)
            self._yielded = _monotonic()
        self._ready.clear()
        self._woken_remotely = False
        return self._collect()

    def wake(self) -> None:
        """End the current or the next wait of `select()`, from any thread."""
        if _native_thread() == self._thread:
            self._ready.set()
        else:
            # Set the flag first: select() starts the watcher before it reads the flag, so it sees either.
            self._woken_remotely = True
            waker = self._waker
            if waker is not None:
                waker.send()

    def close(self) -> None:
        """Close the watchers; descriptors stay open."""
        self._unbind()
        self.loop = None
        super().close()

    def _wait(self, timeout: float | None) -> None:
        # Only while it waits: a started watcher keeps the hub alive, even for a loop that does not run.
        self._waker.start(self._ready.set)
        loop = self.loop
        plain, loop._ready = loop._ready, _WakingQueue(self)
        try:
            if not self._woken_remotely:
                self._ready.wait(timeout)
        finally:
            self._waker.stop()
            plain.extend(loop._ready)
            loop._ready = plain
        # Timers of many loops may expire in one hub iteration. All but the first yield, so that other
        # greenlets run in between.
        if abs(time.time() - self._hub.loop.now()) > _BUSY_HUB:
            gevent.sleep(0)

    def _collect(self) -> list[tuple[selectors.SelectorKey, int]]:
        if not self._events:
            return []
        keys: Any = self._fd_to_key  # type: ignore[attr-defined]
        ready = [(keys[fd], events & keys[fd].events) for fd, events in self._events.items() if fd in keys]
        self._events.clear()
        return ready

    def _fired(self, events: int, fd: int) -> None:
        watcher = self._watchers.get(fd)
        if watcher is None:
            return
        watcher.stop()
        self._stopped.add(fd)
        # libev reports READ=1 and WRITE=2, like `selectors`; treat an error (-1) as both.
        self._events[fd] = self._events.get(fd, 0) | (events & 3 if events > 0 else 3)
        self._ready.set()

    def _watch(self, fd: int, events: int) -> None:
        try:
            watcher = self._hub.loop.io(fd, events)
        except OSError as error:
            raise ValueError(f"Invalid file descriptor: {fd}") from error
        watcher.priority = self._hub.loop.MAXPRI
        self._watchers[fd] = watcher
        self._stopped.add(fd)

    def _bind(self, hub: Any) -> None:
        self._unbind()
        self._hub = hub
        self._thread = _native_thread()
        self._waker = hub.loop.async_()
        for key in self.get_map().values():
            self._watch(key.fd, key.events)

    def _unbind(self) -> None:
        watchers = list(self._watchers.values())
        if self._waker is not None:
            watchers.append(self._waker)
        for watcher in watchers:
            watcher.stop()
            watcher.close()
        self._watchers.clear()
        self._stopped.clear()
        self._events.clear()
        self._waker = self._hub = None


class _WakingQueue(deque[Any]):
    """A loop's queue of callbacks while the loop waits: an added callback ends the wait.

    Other greenlets of the thread may set a future or fill a queue of this loop, as Channels' in-memory layer
    does. asyncio then uses `call_soon()`, which does not wake the loop because its thread is running.
    """

    def __init__(self, selector: GreenSelector) -> None:
        super().__init__()
        self._selector = selector

    def append(self, handle: Any) -> None:
        super().append(handle)
        self._selector.wake()


class GreenLoop(asyncio.SelectorEventLoop):
    """Run asyncio in a greenlet: other greenlets, and loops in them, run while it waits."""

    _ssock: Any = None
    _csock: Any = None

    def __init__(self) -> None:
        selector = GreenSelector()
        super().__init__(cast("selectors.BaseSelector", selector))
        selector.loop = self

    def close(self) -> None:
        """Call the functions in `at_close`, then close the loop."""
        if not self.is_closed() and not self.is_running():
            for callback in at_close:
                callback(self)
        super().close()

    def add_signal_handler(self, sig: int, callback: Callable[..., object], *args: Any) -> None:  # type: ignore[override]
        """Handle a signal as asyncio does; this makes the socket pair the loop otherwise lacks."""
        if self._csock is None:
            super()._make_self_pipe()  # type: ignore[misc]
        super().add_signal_handler(sig, callback, *args)

    async def _make_subprocess_transport(
        self, protocol: Any, args: Any, shell: Any, stdin: Any, stdout: Any, stderr: Any, bufsize: Any,
        extra: Any = None, **kwargs: Any,
    ) -> Any:  # fmt: skip
        """Start a child; gevent reports its exit, because its SIGCHLD handler reaps the child.

        asyncio's own watchers would find no such process (`unix_events.py`, 3.12 and newer).
        """
        given = (protocol, args, shell, stdin, stdout, stderr, bufsize)
        if not hasattr(subprocess.Popen, "rawlink"):  # the patch left subprocess out
            return await super()._make_subprocess_transport(*given, extra=extra, **kwargs)  # type: ignore[misc]
        waiter = self.create_future()
        transport: Any = asyncio.unix_events._UnixSubprocessTransport(  # type: ignore[attr-defined]
            self, *given, waiter=waiter, extra=extra, **kwargs
        )
        transport._proc.rawlink(lambda child: self._child_ended(transport, child.returncode))
        try:
            await waiter
        except BaseException:  # cancellation too: the child must not outlive its transport
            transport.close()
            await transport._wait()
            raise
        return transport

    def _child_ended(self, transport: Any, status: int) -> None:
        if not self.is_closed():  # a loop may end before its children do
            self.call_soon_threadsafe(transport._process_exited, status)

    def _make_self_pipe(self) -> None:
        """Make no pair of sockets: `wake()` needs none."""

    def _close_self_pipe(self) -> None:
        if self._csock is not None:
            super()._close_self_pipe()  # type: ignore[misc]

    def _write_to_self(self) -> None:
        selector: Any = self._selector  # type: ignore[attr-defined]
        if selector is not None:  # a late thread may still call a closed loop
            selector.wake()


def new_loop() -> asyncio.AbstractEventLoop:
    """Return a loop that fits the running native thread.

    A `GreenLoop` in threads with a hub, asyncio's own loop in native threads without one.
    """
    return GreenLoop() if greenlets_live_here() else asyncio.SelectorEventLoop()


def greenlets_live_here() -> bool:
    """Tell whether a loop of this native thread must wait in a hub."""
    # On Linux the main thread's id is the pid; it gets a hub as soon as anything waits.
    return hub_here() is not None or get_native_id() == os.getpid()
