"""Run submitted calls in a greenlet, and put their outcome into futures."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import Event
from gevent.hub import get_hub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["GreenWorker", "interrupted_after", "run_item"]


class GreenWorker(Executor):
    """Run submitted calls in one greenlet, in order; `submit()` never switches."""

    def __init__(self) -> None:
        self._items: deque[tuple[Future[Any], Callable[[], Any]] | None] = deque()
        self._more = Event()
        self._runner: Any = None

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have the greenlet call `fn` after the calls submitted before."""
        future: Future[Any] = Future()
        self._items.append((future, lambda: fn(*args, **kwargs)))
        self._more.set()
        if self._runner is None:
            # Not a bound method: an unreferenced executor must be collected, which ends its greenlet.
            self._runner = gevent.spawn(_work, self._items, self._more)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - Executor's
        """Accept no more calls; end after the submitted ones."""
        self._items.append(None)
        self._more.set()
        if wait and self._runner is not None and self._runner is not gevent.getcurrent():
            self._runner.join()

    def __del__(self) -> None:
        self._items.append(None)
        self._more.set()


def _work(items: deque[Any], more: Event) -> None:
    while True:
        more.wait()
        more.clear()
        while items:
            item = items.popleft()
            if item is None:
                return
            run_item(*item)
            del item  # or it would keep its result alive until the next one


def run_item(future: Future[Any], call: Callable[[], Any]) -> None:
    """Run a submitted call and put its outcome into its future."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)


@contextmanager
def interrupted_after(seconds: float | None) -> Iterator[None]:
    """Interrupt this greenlet in the block after `seconds`, then every second; None never does.

    A plain `gevent.Timeout` is raised once, and a work item may take it as its outcome.
    """
    if seconds is None:
        yield
        return
    mine = gevent.Timeout()  # used as a plain exception: never started
    timer = get_hub().loop.timer(max(seconds, 0.0), 1.0)
    timer.start(gevent.getcurrent().throw, mine)
    try:
        yield
    except gevent.Timeout as timeout:
        if timeout is not mine:
            raise
    finally:
        timer.close()
