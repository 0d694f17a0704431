"""The pool: slots in order, a permit for each child, and nothing left over when its block ends."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from greenkit import facts
from greenkit.pool._outcome import is_overload
from greenkit.pool._stream import Stream
from greenkit.pool._workers import Work, Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

    from typing_extensions import ParamSpec

    from greenkit.pool._child import Child, Costs
    from greenkit.pool._outcome import Outcome
    from greenkit.pool._stream import Delivery, Progress
    from greenkit.wait import Gate

    OnError = Literal["raise", "return", "skip"]
    P = ParamSpec("P")

T = TypeVar("T")
R = TypeVar("R")

__all__ = ["GreenPool", "PoolStatistics"]


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """Show a pool at one instant; counts are since it was made.

    Attributes:
        size: Children that may run at once.
        max_size: The most `size` may become; the same unless the pool adapts.
        in_use: Slots taken now.
        waiting: Greenlets in line for a slot.
        children: Children alive, those on their caller's slot included.
        started: Children made.
        succeeded: Children that returned.
        failed: Children that raised.
        killed: Children that were killed.
    """

    size: int
    max_size: int
    in_use: int
    waiting: int
    children: int
    started: int
    succeeded: int
    failed: int
    killed: int


class GreenPool:
    """Stream work in at most `size` greenlets, under a limiter if there is one.

    A piece of work first gets a slot, then its permit, and only then a greenlet, so waiting work
    costs nothing and keeps its order. Used as a context manager nothing outlives the block: a
    normal end waits for the children; an exception, a `break` or a kill kills and joins them.

    Args:
        size: Children at once.
        limiter: A `greenkit.limits.Limiter`, or any `greenkit.wait.Gate`; or a function that returns the one
            for a piece of work, called with its arguments. Then the permit comes before the slot: whatever
            waits for the turn of its key takes no slot from others.
        cost: Called with the arguments of a piece of work; returns its estimated cost: a number
            (of tokens) or a mapping by dimension.
        settle: Called with what a piece of work returned; returns what it really cost.
        deadline: Seconds one piece of work may run, from its start; then a `gevent.Timeout` is raised
            in it, and its error is `OutOfTime`. The waits for slot and permit do not count.
        attempts: How often a piece of work is tried at the most, while its errors are worth another attempt
            (429, 5xx, broken connections: see `Limiter.attempts()`). Each attempt takes its own permit,
            before work that is not tried again, and `deadline` counts for each; the slot is kept. Needs a
            `limiter` that has `attempts()`.
        adaptive: Let the size follow what the other side bears: it begins with a quarter of `size`,
            doubles while all goes well, falls by a fifth with a 429, 503, 529 or time-out, and never
            exceeds `size`. Or a function that tells which errors mean "too much at once".
        name: Shown in statistics and metrics.

    Example:
        with GreenPool(200, limiter=llm, cost=estimate, settle=usage_of) as pool:
            for row, out in pool.stream(ask, rows, on_error="return"):
                save(row, out.value if out.ok else out.error)
    """

    def __init__(
        self,
        size: int,
        *,
        limiter: Gate | Callable[..., Gate] | None = None,
        cost: Callable[..., Costs] | None = None,
        settle: Callable[[Any], Costs] | None = None,
        deadline: float | None = None,
        attempts: int = 1,
        adaptive: bool | Callable[[BaseException], bool] = False,
        name: str = "pool",
    ) -> None:
        if limiter is None and (cost is not None or settle is not None):
            msg = "cost= and settle= say what a limiter is charged; give limiter= too, or leave them out"
            raise TypeError(msg)
        _check_size(size)
        _check_deadline(deadline)
        _check_attempts(attempts, limiter)
        self.name = name
        self._deadline = deadline
        overload = adaptive if callable(adaptive) else is_overload if adaptive else None
        self._workers = Workers(
            size,
            name=name,
            limiter=limiter,
            cost=cost,
            settle=settle,
            attempts=attempts,
            overload=overload,
        )
        facts.register("pool", self)

    def __repr__(self) -> str:
        seen = self.statistics()
        state = ", closed" if self._workers.closed else ""
        return f"<GreenPool {self.name!r} {seen.in_use}/{seen.size} busy, {seen.waiting} waiting{state}>"

    def __enter__(self) -> GreenPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Join the children; kill them first when the block ended by an exception. Switches: may."""
        self._workers.closed = True
        if error is not None:
            self.kill()
            return
        self._cancel_runs()  # nobody can read them any more
        try:
            self.join()
        except BaseException:
            self.kill()
            raise

    def spawn(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Child[R]:
        """Stream `fn(*args, **kwargs)` in a greenlet, once there is a slot and a permit for it.

        Called from a child of this pool while the pool is full, the work runs on the caller's
        slot, and the caller waits until it is done: queueing could wait for itself.

        Raises:
            PoolClosedError: The pool's block has ended.

        Switches: may.
        """
        return self._workers.take_on(Work(partial(fn, *args, **kwargs), self._deadline))

    def try_spawn(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Child[R] | None:
        """Stream `fn(*args, **kwargs)` in a greenlet if slot and permit are there now; else None.

        Raises:
            PoolClosedError: The pool's block has ended.

        Switches: never, unless the limiter does to answer.
        """
        return self._workers.take_on_nowait(Work(partial(fn, *args, **kwargs), self._deadline))

    def stream(
        self,
        fn: Callable[[T], R],
        iterable: Iterable[T],
        *,
        on_error: OnError = "raise",
        ahead: int | None = None,
        progress: Progress | None = None,
        deadline: float | None = None,
    ) -> Iterator[tuple[T, Outcome[R]]]:
        """Yield (item, outcome) for every item, as they end.

        The source is read in a greenlet of its own, no further than `size + ahead` items beyond
        those taken here, so it may be endless. Leaving the loop, in any way, ends the work. An
        error of the source itself is always raised.

        Args:
            fn: Called with one item; `zip()` the iterables if it needs several.
            iterable: The items.
            on_error: "raise" the first error, which ends the rest; "return" it in its outcome;
                or "skip" the item.
            ahead: Items that may be done and not yet taken, or wait for the turn of their key. Default: the
                size of the pool; at least 1000 where `limiter` is a function.
            progress: Anything with tqdm's `update(n)`; its `total` is set when it has none and
                the iterable has a length.
            deadline: Seconds the work on one item may run; by default the pool's.

        Switches: may.
        """
        _check_on_error(on_error)
        return _stream(self._run(fn, iterable, ahead, progress, deadline), on_error)

    @overload
    def imap(
        self,
        fn: Callable[[T], R],
        iterable: Iterable[T],
        *,
        on_error: Literal["raise", "skip"] = ...,
        ahead: int | None = ...,
        progress: Progress | None = ...,
        deadline: float | None = ...,
    ) -> Iterator[R]: ...
    @overload
    def imap(
        self,
        fn: Callable[[T], R],
        iterable: Iterable[T],
        *,
        on_error: Literal["return"],
        ahead: int | None = ...,
        progress: Progress | None = ...,
        deadline: float | None = ...,
    ) -> Iterator[Outcome[R]]: ...
    def imap(
        self,
        fn: Callable[[T], R],
        iterable: Iterable[T],
        *,
        on_error: OnError = "raise",
        ahead: int | None = None,
        progress: Progress | None = None,
        deadline: float | None = None,
    ) -> Iterator[Any]:
        """Yield what `fn` returned for every item, in the order of the items.

        With `on_error="return"` yields outcomes instead, of all items. Else as `stream()`; what
        ended before its turn counts against `ahead`.

        Switches: may.
        """
        _check_on_error(on_error)
        return _imap(self._run(fn, iterable, ahead, progress, deadline), on_error)

    @overload
    def map(
        self,
        fn: Callable[[T], R],
        iterable: Iterable[T],
        *,
        on_error: Literal["raise", "skip"] = ...,
        progress: Progress | None = ...,
        deadline: float | None = ...,
    ) -> list[R]: ...
    @overload
    def map(
        self,
        fn: Callable[[T], R],
        iterable: Iterable[T],
        *,
        on_error: Literal["return"],
        progress: Progress | None = ...,
        deadline: float | None = ...,
    ) -> list[Outcome[R]]: ...
    def map(
        self,
        fn: Callable[[T], R],
        iterable: Iterable[T],
        *,
        on_error: OnError = "raise",
        progress: Progress | None = None,
        deadline: float | None = None,
    ) -> list[Any]:
        """Return what `fn` returned for every item, in order; the first error ends the rest.

        With `on_error="return"` a list of outcomes, with "skip" without those that failed.

        Switches: may.
        """
        _check_on_error(on_error)
        found: list[tuple[int, Any]] = []
        with self._run(fn, iterable, None, progress, deadline) as run:
            for index, _, out in _passing(run, on_error):
                found.append((index, out if on_error == "return" else out.value))
        return [value for _, value in sorted(found, key=_index)]

    def join(self, timeout: float | None = None) -> None:
        """Wait until no child is left.

        Raises:
            WaitTimeout: Some are, after `timeout` seconds.

        Switches: may.
        """
        self._workers.join(timeout)

    def kill(self) -> None:
        """Kill every child, and wait until all have ended; whoever reads a run gets PoolClosedError.

        Raises:
            WaitTimeout: A child refuses to end.

        Switches: may.
        """
        self._cancel_runs()
        self._workers.end()

    def resize(self, size: int) -> None:
        """Change how many children may run; a shrink waits for those that do to end.

        Of a pool that adapts this is the ceiling.

        Switches: never.
        """
        _check_size(size)
        self._workers.resize(size)

    def statistics(self) -> PoolStatistics:
        """Return a frozen account of this instant.

        Switches: never.
        """
        workers = self._workers
        line = workers.line.statistics()
        return PoolStatistics(
            size=line.size,
            max_size=line.size if workers.adaptive is None else workers.adaptive.most,
            in_use=line.in_use,
            waiting=line.waiting,
            children=len(workers.children),
            started=workers.started,
            succeeded=workers.succeeded,
            failed=workers.failed,
            killed=workers.killed,
        )

    def _run(
        self,
        fn: Callable[[Any], Any],
        iterable: Iterable[Any],
        ahead: int | None,
        progress: Progress | None,
        deadline: float | None,
    ) -> Stream:
        _check_deadline(deadline)
        deadline = self._deadline if deadline is None else deadline
        return Stream(
            self._workers, fn=fn, iterable=iterable, ahead=ahead, progress=progress, deadline=deadline
        )

    def _cancel_runs(self) -> None:
        for run in list(self._workers.runs):
            run.cancel(f"pool {self.name!r} was ended while its results were still being read")


def _stream(run: Stream, on_error: str) -> Iterator[tuple[Any, Outcome[Any]]]:
    with run:
        for _, item, out in _passing(run, on_error):
            yield item, out


def _imap(run: Stream, on_error: str) -> Iterator[Any]:
    with run:
        for _, _, out in _passing(run.ordered(), on_error):
            yield out if on_error == "return" else out.value


def _passing(deliveries: Iterable[Delivery], on_error: str) -> Iterator[Delivery]:
    """Yield what `on_error` lets through; raise the first error if it says so."""
    for index, item, out in deliveries:
        if out.ok or on_error == "return":
            yield index, item, out
        elif on_error == "raise":
            try:
                out.get()
            finally:
                del out  # the traceback holds this frame: no cycle through it


def _index(found: tuple[int, Any]) -> int:
    return found[0]


def _check_size(size: int) -> None:
    if size < 1:
        msg = f"size must be at least 1, not {size!r}: nothing could ever run"
        raise ValueError(msg)


def _check_deadline(deadline: float | None) -> None:
    if deadline is not None and not 0 < deadline < math.inf:
        msg = (
            f"deadline is above 0 seconds, not {deadline!r}; leave it out to let work run as long as it takes"
        )
        raise ValueError(msg)


def _check_attempts(attempts: int, limiter: object) -> None:
    if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1:
        msg = f"attempts must be a whole number, at least 1, not {attempts!r}"
        raise ValueError(msg)
    has = hasattr(limiter, "attempts") or (callable(limiter) and not hasattr(limiter, "permit"))
    if attempts > 1 and not has:
        msg = f"attempts={attempts} takes a permit for each attempt; give limiter= a Limiter, not {limiter!r}"
        raise TypeError(msg)


def _check_on_error(on_error: str) -> None:
    if on_error not in {"raise", "return", "skip"}:
        msg = f'on_error must be "raise", "return" or "skip", not {on_error!r}'
        raise ValueError(msg)
