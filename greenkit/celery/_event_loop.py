"""Kombu's event loop, waiting through gevent.

Kombu has two ways to run a consumer. The blocking one, which Celery picks for green pools, writes
acks from every task's greenlet at once and looks at a full prefetch window only when a poll times
out. The event loop, which prefork uses, writes everything from one place and is woken. `GreenHub`
is that event loop with two parts exchanged: its poller parks the greenlet instead of the thread,
and `call_soon` from another greenlet wakes it without a byte through a socket.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

import gevent
from celery.utils.log import get_logger
from gevent.event import AsyncResult, Event
from gevent.monkey import get_original
from kombu.asynchronous import Hub
from vine import Thenable, promise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["GreenHub", "GreenPoller"]

_logger = get_logger(__name__)
_POLLS_WITHOUT_REST = 8
# A loop that waits for its broker to come back takes no calls; a shutdown goes on without it.
_LONGEST_CALL = 5.0


class GreenPoller:
    """Wait for many file descriptors in one greenlet.

    An epoll set is itself a file descriptor that becomes readable when one of its members is
    ready. So gevent watches one descriptor, whatever the number behind it, and nothing is
    registered anew for each wait.
    """

    __slots__ = ("_busy", "_epoll", "_wake", "_watcher")

    def __init__(self) -> None:
        # gevent removes select.epoll because its poll() blocks; ours is only asked with 0.
        self._epoll = get_original("select", "epoll")()
        self._watcher = gevent.get_hub().loop.io(self._epoll.fileno(), 1)
        self._wake = Event()
        self._busy = 0

    def register(self, fd: Any, events: int) -> Any:
        """Watch `fd` for `events` (epoll bits, which are kombu's READ, WRITE and ERR)."""
        try:
            self._epoll.register(fd, events)
        except FileExistsError:
            pass  # kombu's Redis transport registers all its sockets anew in every iteration
        return fd

    def unregister(self, fd: Any) -> None:
        """Stop watching `fd`; one that is closed or unknown is no error."""
        try:
            self._epoll.unregister(fd)
        except (ValueError, KeyError, TypeError, OSError):
            pass

    def wake(self) -> None:
        """End the wait of `poll()`, now or the next one.

        Switches: never.
        """
        self._wake.set()

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        """Return (fd, events) of what is ready, after at most `timeout` seconds.

        Switches: may.
        """
        ready: list[tuple[int, int]] = self._epoll.poll(0)
        if ready and self._busy < _POLLS_WITHOUT_REST and not self._wake.is_set():
            self._busy += 1
            return ready
        self._busy = 0
        if ready or timeout == 0 or self._wake.is_set():
            self._wake.clear()
            # A broker that always has something would starve the tasks it feeds.
            gevent.sleep(0)
        else:
            self._park(timeout)
        return self._epoll.poll(0)  # type: ignore[no-any-return]

    def _park(self, timeout: float | None) -> None:
        self._watcher.start(self._wake.set)
        try:
            self._wake.wait(timeout)
        finally:
            # Left running, a ready descriptor would spin the hub until it is read.
            self._watcher.stop()
            self._wake.clear()

    def close(self) -> None:
        """Let go of the epoll set; closing twice is fine."""
        self._watcher.stop()
        self._watcher.close()
        self._epoll.close()


class GreenHub(Hub):  # type: ignore[misc]  # kombu ships no types
    """Run kombu's event loop in one greenlet, the only one that writes to the broker."""

    owner: object = None

    def __init__(self, timer: Any = None) -> None:
        self._soon: dict[Any, None] = {}  # a set that keeps its order: acks before what follows them
        self.on_lost: list[Callable[[], None]] = []
        """Called when the loop is left by an error, before anything of the dead connection is let go."""
        super().__init__(timer)

    def _create_poller(self) -> None:
        # Called by Hub.__init__ and Hub.reset() (kombu 5.5 to 5.7).
        self._poller = GreenPoller()
        self._register_fd = self._poller.register
        self._unregister_fd = self._poller.unregister
        waker = getattr(self, "_waker", None)
        if waker is not None:
            self._register_fd(waker.fileno(), self.READ)

    def fire_timers(
        self, min_delay: float = 1, max_delay: float = 10, max_timers: int = 10, propagate: Any = ()
    ) -> float:
        """Run the timers that are due, and return how long to wait for the next.

        kombu runs ten and then waits a second (kombu/asynchronous/hub.py 5.7), however many are due:
        a rate limit of ten a second would let one task a second through.
        """
        delay: float = super().fire_timers(
            min_delay, max_delay, max(max_timers, len(self.timer._queue)), propagate=propagate
        )
        # Those that came due meanwhile get their turn after the broker's messages, at once.
        heads = self.timer._queue[:1]
        return 0.0 if heads and heads[0].eta <= monotonic() else delay

    def create_loop(self, **options: Any) -> Iterator[None]:
        """Return kombu's loop, and remember which greenlet runs it."""
        self.owner = gevent.getcurrent()
        loop: Iterator[None] = super().create_loop(**options)
        return loop

    def call_soon(self, callback: Any, *args: Any) -> Any:
        """Have `callback` run by the loop's greenlet, and wake it.

        Switches: never.
        """
        if not isinstance(callback, Thenable):
            callback = promise(callback, args)
        self._soon[callback] = None
        self._ready.add(self.run_soon)
        self.wake()
        return callback

    def run_soon(self) -> None:
        """Run what `call_soon()` was given; the error of one call is raised when the others have run.

        kombu drops the rest (kombu/asynchronous/hub.py 5.7, `create_loop`): one event that cannot
        be sent would take the acks of ended tasks along, and those tasks would run again.

        Switches: may.
        """
        todo, self._soon = self._soon, {}
        errors: list[Exception] = []
        try:
            while todo:
                callback = next(iter(todo))
                del todo[callback]
                try:
                    callback()
                except Exception as exc:
                    errors.append(exc)
        finally:
            if todo:  # left by a shutdown, which is no Exception
                self._soon = todo | self._soon
                self._ready.add(self.run_soon)
        if errors:
            # A lost connection is what the consumer knows how to mend; the others may follow from it.
            lost = [exc for exc in errors if isinstance(exc, self.propagate_errors)]
            raise (lost or errors)[0]

    def run_soon_quietly(self) -> None:
        """Run what `call_soon()` was given where no caller can handle an error.

        Switches: may.
        """
        try:
            self.run_soon()
        except Exception as exc:
            _logger.debug("passed over while a connection is let go: %r", exc)

    def reset(self) -> None:
        """Let go of a connection that is lost; raise nothing, which would end the worker.

        Switches: may.
        """
        for callback in self.on_lost:
            callback()
        try:
            super().reset()
        except Exception as exc:
            _logger.debug("passed over while a lost connection is let go: %r", exc)
        self.on_tick.clear()  # kombu leaves those of the dead connection (kombu/transport/redis.py 5.7)

    def wake(self) -> None:
        """Have the loop go round once more, now.

        Switches: never.
        """
        if self._poller is not None:
            self._poller.wake()

    def in_loop(self, function: Callable[..., Any]) -> Callable[..., None]:
        """Return a function that has the loop's greenlet call `function`, and waits for the end.

        For the greenlets of signal handlers: two greenlets on one broker connection break it.
        """

        def call(*args: Any, **kwargs: Any) -> None:
            if self.owner is None or self.owner is gevent.getcurrent():
                function(*args, **kwargs)
                return
            done = AsyncResult()

            def run() -> None:
                try:
                    done.set(function(*args, **kwargs))
                except Exception as exc:  # the caller's, and none of the loop's business
                    done.set_exception(exc)

            self.call_soon(run)
            done.wait(_LONGEST_CALL)
            if done.exception is not None:
                raise done.exception

        return call

    def iterate(self, timeout: float) -> None:
        """Run one iteration, waiting at most `timeout` seconds for something to do.

        `run_once()` alone waits until the next timer is due, up to 10 s (kombu 5.7,
        `Hub.fire_timers`).

        Switches: may.
        """
        if timeout <= 0:
            self.wake()
        alarm = gevent.get_hub().loop.timer(max(timeout, 0.0))
        alarm.start(self.wake)
        try:
            self.run_once()
        finally:
            alarm.close()
