"""An asyncio event loop that waits in gevent's hub.

asyncio's own loop on gevent's selector works, but asks for two descriptors a loop and 17 µs a pass, most of
it a timer for `select(0)`. This one registers its descriptors with the hub, is woken without a socket pair,
and gives the hub a turn once a millisecond while its own callbacks are ready.
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
_YIELD_EVERY = 0.001  # seconds a loop may run ready callbacks before the hub gets a turn
_BUSY_HUB = 0.005  # seconds a pass of the hub may take before a loop goes to the end of the queue

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
            None  # bound at the first select(): a loop may be made in one thread and run in another
        )
        self._thread = 0
        self._watchers: dict[int, Any] = {}  # fd → watcher
        self._stopped: set[int] = set()  # fds whose watcher must be started before the next wait
        self._events: dict[int, int] = {}  # fd → events seen since the last select()
        self._ready = Event()
        self._woken_from_afar = False
        self._far: Any = None
        self._yielded = _monotonic()
        self.loop: Any = None  # the GreenLoop that waits here

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Register as `selectors.BaseSelector` does. Switches: never."""
        key: selectors.SelectorKey = super().register(fileobj, events, data)
        if self._hub is not None:
            self._watch(key.fd, events)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """Unregister as `selectors.BaseSelector` does. Switches: never."""
        key: selectors.SelectorKey = super().unregister(fileobj)
        watcher = self._watchers.pop(key.fd, None)
        if watcher is not None:
            watcher.stop()
            watcher.close()
        self._stopped.discard(key.fd)
        self._events.pop(key.fd, None)
        return key

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready, after at most `timeout` seconds; None waits without end.

        Switches: may; with `timeout` 0 only once a millisecond.
        """
        hub = get_hub()
        if hub is not self._hub:
            self._bind(hub)
        for fd in self._stopped:
            self._watchers[fd].start(self._fired, fd, pass_events=True)
        self._stopped.clear()
        if (timeout is not None and timeout <= 0) or self._ready.is_set() or self._woken_from_afar:
            if _monotonic() - self._yielded >= _YIELD_EVERY:
                gevent.sleep(0)
                self._yielded = _monotonic()
        else:
            self._wait(timeout)
            self._yielded = _monotonic()
        self._ready.clear()
        self._woken_from_afar = False
        return self._collect()

    def wake(self) -> None:
        """End the wait of `select()`, or the next one, from whatever thread. Switches: never."""
        if _native_thread() == self._thread:
            self._ready.set()
        else:
            # The flag first: select() starts the watcher before it looks at the flag, so one of both is seen.
            self._woken_from_afar = True
            far = self._far
            if far is not None:
                far.send()

    def close(self) -> None:
        """Give the watchers back; descriptors stay open. Switches: never."""
        self._unbind()
        self.loop = None
        super().close()

    def _wait(self, timeout: float | None) -> None:
        # Only while it waits: a started watcher keeps the hub's loop alive, also for a loop nobody runs.
        self._far.start(self._ready.set)
        loop = self.loop
        plain, loop._ready = loop._ready, _WakingQueue(self)
        try:
            if not self._woken_from_afar:
                self._ready.wait(timeout)
        finally:
            self._far.stop()
            plain.extend(loop._ready)
            loop._ready = plain
        # Timers of many loops may end in one pass of the hub. Those behind the first go to the end of the
        # queue, so that other greenlets run between them.
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
        # libev answers READ=1 and WRITE=2, as `selectors` counts; an error (-1) is both.
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
        self._far = hub.loop.async_()
        for key in self.get_map().values():
            self._watch(key.fd, key.events)

    def _unbind(self) -> None:
        watchers = list(self._watchers.values())
        if self._far is not None:
            watchers.append(self._far)
        for watcher in watchers:
            watcher.stop()
            watcher.close()
        self._watchers.clear()
        self._stopped.clear()
        self._events.clear()
        self._far = self._hub = None


class _WakingQueue(deque[Any]):
    """A loop's queue of callbacks while the loop waits: what is put in ends the wait.

    Other greenlets of the thread may set a future or put into a queue of this loop, as Channels' in-memory
    layer does: asyncio calls `call_soon()` then, which takes the loop to be awake because its thread is.
    """

    def __init__(self, selector: GreenSelector) -> None:
        super().__init__()
        self._selector = selector

    def append(self, handle: Any) -> None:
        super().append(handle)
        self._selector.wake()


class GreenLoop(asyncio.SelectorEventLoop):
    """Run asyncio in a greenlet: other greenlets, and other loops in them, go on while it waits."""

    _ssock: Any = None
    _csock: Any = None

    def __init__(self) -> None:
        selector = GreenSelector()
        super().__init__(cast("selectors.BaseSelector", selector))
        selector.loop = self

    def close(self) -> None:
        """Close the loop, after the functions in `at_close` had their look at it."""
        if not self.is_closed() and not self.is_running():
            for callback in at_close:
                callback(self)
        super().close()

    def add_signal_handler(self, sig: int, callback: Callable[..., object], *args: Any) -> None:  # type: ignore[override]
        """Handle a signal as asyncio does; it needs the pair of sockets this loop goes without."""
        if self._csock is None:
            super()._make_self_pipe()  # type: ignore[misc]
        super().add_signal_handler(sig, callback, *args)

    async def _make_subprocess_transport(
        self, protocol: Any, args: Any, shell: Any, stdin: Any, stdout: Any, stderr: Any, bufsize: Any,
        extra: Any = None, **kwargs: Any,
    ) -> Any:  # fmt: skip
        """Start a child and learn of its end from gevent, whose SIGCHLD handler takes its status first.

        asyncio's own watchers ask the kernel, and find no such process (`unix_events.py`, 3.12 and newer).
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
        except BaseException:  # also a cancel: the child must not outlive its transport
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
        if selector is not None:  # a closed loop may still be called from a thread that ends late
            selector.wake()


def new_loop() -> asyncio.AbstractEventLoop:
    """Return a loop that fits the running native thread.

    `GreenLoop` where greenlets live; asyncio's own loop in a native thread that has no hub.

    Switches: never.
    """
    return GreenLoop() if greenlets_live_here() else asyncio.SelectorEventLoop()


def greenlets_live_here() -> bool:
    """Tell whether a loop of this native thread must wait in a hub. Switches: never."""
    # Linux numbers the main thread like its process; it has a hub as soon as anything waits.
    return hub_here() is not None or get_native_id() == os.getpid()
