"""Call async code from greenlets: one coroutine, several, or an async generator."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any, TypeVar

from greenkit.aio._portal import LoopStatistics, portal, portal_if_started
from greenkit.wait import Deadline

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterable, Iterator

__all__ = ["end_tasks", "gather", "iterate", "loop", "run", "statistics"]

T = TypeVar("T")
GRACE = 5.0


def run(coroutine: Coroutine[Any, Any, T], *, timeout: float | None = None, grace: float = GRACE) -> T:
    """Run a coroutine on the long-lived loop of this thread and return its result.

    Async clients made in one call can be used in the next: they live on the same loop. Exceptions are raised
    unchanged, with the coroutine's traceback below the caller's. The coroutine sees the caller's context
    variables, and the caller sees those it set. Thread-sensitive code of asgiref (the async ORM)
    runs in the calling greenlet, on its connection.

    A greenlet that is killed or times out cancels the coroutine and waits for its end.

    Args:
        coroutine: The coroutine; closed when it cannot be run.
        timeout: Seconds after which it is cancelled; None for no limit.
        grace: Seconds a cancelled coroutine has to end; after that it is logged and counted as abandoned.

    Raises:
        WaitTimeout: `timeout` passed.
        RuntimeError: Called in a coroutine of the same thread; await there instead.
        TypeError: `coroutine` is not a coroutine.

    Switches: may.
    """
    if not asyncio.iscoroutine(coroutine):
        raise TypeError(
            f"aio.run() takes a coroutine, not {coroutine!r}; call the async function: aio.run(fetch(1))"
        )
    try:
        _refuse_inside_a_loop()
        deadline = Deadline.after(_seconds("timeout", timeout))
        here = portal()
    except BaseException:
        coroutine.close()  # or Python warns that it was never awaited
        raise
    return here.run(coroutine, deadline=deadline, grace=grace)


def gather(
    *awaitables: Awaitable[T],
    limit: int | None = None,
    timeout: float | None = None,
    return_exceptions: bool = False,
) -> list[T]:
    """Run several awaitables at once and return their results in order.

    When one raises, the others are cancelled and joined before the exception is raised.

    Args:
        awaitables: Coroutines, or anything else that can be awaited on the loop.
        limit: How many run at once; None for all.
        timeout: Seconds for all of them together; None for no limit.
        return_exceptions: Return exceptions in place of results instead of raising the first.

    Raises:
        WaitTimeout: `timeout` passed.

    Switches: may.
    """
    if limit is not None and limit < 1:
        _close_all(awaitables)
        raise ValueError(f"limit is {limit}; it must be 1 or more, or None for all at once")
    try:
        return run(_gather(awaitables, limit, return_exceptions=return_exceptions), timeout=timeout)
    finally:
        _close_all(awaitables)  # also when `_gather()` itself never began


async def _gather(
    awaitables: tuple[Awaitable[T], ...], limit: int | None, *, return_exceptions: bool
) -> list[T]:
    semaphore = asyncio.Semaphore(limit or len(awaitables) or 1)

    async def limited(awaitable: Awaitable[T]) -> T:
        async with semaphore:
            return await awaitable

    tasks = [asyncio.ensure_future(limited(awaitable)) for awaitable in awaitables]
    try:
        results: Any = await asyncio.gather(*tasks, return_exceptions=return_exceptions)
        return list(results)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _close_all(awaitables: tuple[Awaitable[Any], ...]) -> None:
    for awaitable in awaitables:
        if inspect.iscoroutine(awaitable) and inspect.getcoroutinestate(awaitable) == inspect.CORO_CREATED:
            awaitable.close()  # or Python warns that it was never awaited


def iterate(source: AsyncIterator[T], *, timeout: float | None = None, grace: float = GRACE) -> Iterator[T]:
    """Iterate over an async generator in an ordinary `for`.

    The generator runs only while the next item is requested: it never runs ahead of its consumer. All its
    steps run in one asyncio task, as cancel scopes of anyio require. Leaving the `for` early closes it.

    Args:
        source: An async generator or iterator.
        timeout: Seconds each item may take; None for no limit.
        grace: Seconds the generator has to end when it is closed.

    Raises:
        WaitTimeout: An item took longer than `timeout`.

    Switches: may.
    """
    if not hasattr(source, "__anext__"):
        source_name = type(source).__name__
        raise TypeError(f"iterate() takes an async generator or iterator, not {source_name}")
    seconds = _seconds("timeout", timeout)
    return _iterate(source, seconds, grace)


def _iterate(source: AsyncIterator[T], timeout: float | None, grace: float) -> Iterator[T]:
    here = portal()
    steps = _Steps(source)
    try:
        while True:
            step = here.run(steps.next(), deadline=Deadline.after(timeout), grace=grace)
            if step is None:
                return
            yield step[0]
    finally:
        here.run(steps.close(), deadline=Deadline.after(grace), grace=grace)


class _Steps:
    """Drive an async iterator in its own task, one item per demand."""

    __slots__ = ("_demands", "_source", "_task")

    def __init__(self, source: AsyncIterator[Any]) -> None:
        self._source = source
        self._demands: asyncio.Queue[asyncio.Future[tuple[Any] | None]] | None = None
        self._task: asyncio.Task[None] | None = None

    async def next(self) -> tuple[Any] | None:
        """Return the next item in a tuple, or None at the end."""
        if self._task is None:
            self._demands = asyncio.Queue()  # made on the loop it is used on
            self._task = asyncio.ensure_future(self._drive(self._demands))
        assert self._demands is not None
        answer: asyncio.Future[tuple[Any] | None] = asyncio.get_running_loop().create_future()
        self._demands.put_nowait(answer)
        try:
            return await answer
        except asyncio.CancelledError:
            self._task.cancel()  # the consumer was killed in the middle of an item
            raise

    async def _drive(self, demands: asyncio.Queue[asyncio.Future[tuple[Any] | None]]) -> None:
        source = self._source
        try:
            while True:
                answer = await demands.get()
                try:
                    item = (await source.__anext__(),)
                except StopAsyncIteration:
                    answer.set_result(None)
                    return
                except BaseException as error:
                    if not answer.done():
                        answer.set_exception(error)
                    return
                if not answer.done():
                    answer.set_result(item)
        finally:
            close = getattr(source, "aclose", None)
            if close is not None:
                await close()

    async def close(self) -> None:
        """Cancel the task, which closes the generator."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        else:
            close = getattr(self._source, "aclose", None)
            if close is not None:
                await close()


def end_tasks(
    tasks: Iterable[asyncio.Task[Any]], *, cancel: bool = False, timeout: float | None = None
) -> list[asyncio.Task[Any]]:
    """Wait until tasks of the long-lived loop have ended; return those that have not.

    Args:
        tasks: Tasks made on the loop of this thread.
        cancel: Cancel them first.
        timeout: Seconds to wait for all of them; None for no limit.

    Switches: may.
    """
    left = [task for task in tasks if not task.done()]
    if not left:
        return []
    return run(_end_tasks(left, _seconds("timeout", timeout), cancel=cancel))


async def _end_tasks(
    tasks: list[asyncio.Task[Any]], timeout: float | None, *, cancel: bool
) -> list[asyncio.Task[Any]]:
    if cancel:
        for task in tasks:
            task.cancel()
    _, left = await asyncio.wait(tasks, timeout=timeout)
    return list(left)


def loop() -> asyncio.AbstractEventLoop:
    """Return the long-lived loop that `run()` uses, started if needed.

    For code that needs the loop itself, such as `asyncio.run_coroutine_threadsafe(coroutine, aio.loop())`.

    Switches: may, at the first call.
    """
    return portal().loop


def statistics() -> LoopStatistics:
    """Return the counts of this thread's loop; zeros when it was never used.

    Switches: never.
    """
    here = portal_if_started()
    return here.statistics() if here is not None else LoopStatistics(0, 0, 0, 0, 0)


def _seconds(name: str, value: float | None) -> float | None:
    if value is not None and not 0 <= value < float("inf"):  # nan fails both comparisons
        raise ValueError(f"{name} is {value!r}; it must be 0 or more seconds, or None for no limit")
    return value


def _refuse_inside_a_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError("aio.run() was called in a coroutine; await the coroutine there instead")
