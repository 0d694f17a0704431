"""One run over an iterable: a feeder in its own greenlet, and the mail of outcomes to its owner.

The feeder pulls an item only when there is room, so the source may be endless. The run ends with
its owner's block: normally when all is delivered, in every other way by killing what is left.
"""

from __future__ import annotations

from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from gevent import Greenlet, GreenletExit, Timeout, get_hub
from gevent.queue import SimpleQueue
from greenlet import getcurrent

from greenkit._clock import MONOTONIC
from greenkit.errors import PoolClosedError
from greenkit.pool._child import to_main
from greenkit.pool._outcome import Outcome
from greenkit.pool._workers import Work, end_all
from greenkit.wait import WaitLine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

    from greenkit.pool._child import Child
    from greenkit.pool._workers import Workers

    Delivery = tuple[int, Any, Outcome[Any]]

__all__ = ["Progress", "Stream"]


# Items pulled beyond the slots where each has a gate of its own: those of one slow host may be many in a row.
_AHEAD_OF_KEYS = 1000


class Progress(Protocol):
    """Be told how far a run is; a `tqdm.tqdm` is one."""

    def update(self, n: int = 1) -> object:
        """Take note that `n` more items are done. Switches: never."""


class Stream:
    """Feed items to a workers and hand out how they ended; enter it to start, leave it to end.

    Args:
        workers: Whose slots are used.
        fn: Called with each item.
        iterable: Read in the feeder's greenlet.
        ahead: Items that may be alive beyond the pool's size.
        progress: Told of every item delivered.
        deadline: Seconds the work on one item may run, or None.
    """

    def __init__(
        self,
        workers: Workers,
        *,
        fn: Callable[[Any], Any],
        iterable: Iterable[Any],
        ahead: int | None,
        progress: Progress | None,
        deadline: float | None,
    ) -> None:
        size = workers.line.statistics().size
        usual = max(size, _AHEAD_OF_KEYS) if workers.keyed else size
        self.ahead = usual if ahead is None else ahead
        if self.ahead < 0:
            msg = f"ahead must be 0 or more items, not {ahead!r}"
            raise ValueError(msg)
        self._workers = workers
        self._fn = fn
        self._iterable = iterable
        self._progress = progress
        self._deadline = deadline
        self._over = False
        self._room = WaitLine(size + self.ahead, name=f"{workers.name} room")
        self._mail: SimpleQueue[Delivery | None] = SimpleQueue()
        self._children: set[Child[Any]] = set()
        self._feeder: Any = None
        self._due = 0
        self._broken: BaseException | None = None

    def __enter__(self) -> Stream:
        workers = self._workers
        workers.check_open()
        self._feeder = feeder = Greenlet(self._feed)
        feeder.gr_context = copy_context()
        workers.runs.add(self)
        self._set_total()
        # A feeder killed before it ran reaches no `finally` of its own.
        feeder.rawlink(self._feeder_ended)
        feeder.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Kill what is left of the run, and wait for its end. Switches: may."""
        self._workers.runs.discard(self)
        self._over = True
        try:
            end_all([self._feeder, *self._children])
        except (GreenletExit, Timeout, KeyboardInterrupt, SystemExit) as struck:
            if kind is not GeneratorExit:
                raise
            # `break` drops our generator, and what is raised while that is torn down is printed
            # and lost: our owner would survive its own kill. It gets it at its next switch.
            _raise_later(getcurrent(), struck)

    def __iter__(self) -> Iterator[Delivery]:
        """Yield (index, item, outcome) as they end. Switches: may."""
        for delivery in self._deliveries():
            self._taken()
            yield delivery

    def ordered(self) -> Iterator[Delivery]:
        """Yield (index, item, outcome) in the order of the source. Switches: may."""
        early: dict[int, Delivery] = {}
        due = 0
        for delivery in self._deliveries():
            early[delivery[0]] = delivery
            while due in early:
                self._taken()
                yield early.pop(due)
                due += 1

    def make_room(self, size: int) -> None:
        """Follow the pool's new size. Switches: never."""
        self._room.resize(size + self.ahead)

    def cancel(self, why: str) -> None:
        """End the run from outside; its owner gets PoolClosedError. Switches: never."""
        self._broken = PoolClosedError(why)
        self._over = True
        self._feeder.kill(block=False)
        for child in self._children:
            child.kill(block=False)

    def _deliveries(self) -> Iterator[Delivery]:
        delivered, feeding = 0, True
        while feeding or delivered < self._due:
            note = self._mail.get()
            if note is None:
                feeding = False
            else:
                delivered += 1
                yield note
        if self._broken is not None:
            raise self._broken

    def _taken(self) -> None:
        self._room.release()
        if self._progress is not None:
            self._progress.update(1)

    def _feed(self) -> None:
        try:
            source = enumerate(self._iterable)
            while True:
                self._room.acquire(timeout=None)
                try:
                    index, item = next(source)
                except StopIteration:
                    return
                self._start(index, item)
        except GreenletExit:
            raise  # a kill; `_feeder_ended()` knows whose
        except (KeyboardInterrupt, SystemExit) as error:
            self._broken = error
            to_main(error)
        except BaseException as error:  # a gevent.Timeout too: let go, it would look like the source's end
            self._broken = error

    def _start(self, index: int, item: Any) -> None:
        def done(child: Child[Any]) -> None:
            self._children.discard(child)
            self._mail.put((index, item, child.conclude()))

        def begun(child: Child[Any]) -> None:
            self._children.add(child)
            self._due += 1  # not before: a feeder killed in line for a slot delivers nothing

        if self._over:
            raise GreenletExit  # the source swallowed our kill
        try:
            # Where each item has a gate of its own, one that waits for its due must not keep others waiting.
            take_on = self._workers.take_on_waiting if self._workers.keyed else self._workers.take_on
            take_on(Work(partial(self._fn, item), self._deadline), begun=begun, done=done)
        except Exception as error:
            self._due += 1
            self._mail.put((index, item, Outcome(None, error, 0.0, {}, None, MONOTONIC.now())))

    def _feeder_ended(self, feeder: Greenlet) -> None:
        if feeder.value is not None and self._broken is None:  # a GreenletExit: somebody killed it
            self._broken = PoolClosedError("the run was killed; the rest of its source was not read")
        self._mail.put(None)

    def _set_total(self) -> None:
        progress, length = self._progress, getattr(self._iterable, "__len__", None)
        if progress is not None and getattr(progress, "total", 0) is None and length is not None:
            progress.total = length()  # type: ignore[attr-defined]  # tqdm's, where it is there


def _raise_later(owner: Any, struck: BaseException) -> None:
    """Raise in `owner`, at its next switch, what struck it where it could not be raised."""
    loop = get_hub().loop
    if not isinstance(struck, Timeout):
        loop.run_callback(owner.throw, struck)
        return
    # Through its own timer, so that leaving the block it guards calls it off.
    struck.timer.close()
    struck.timer = loop.timer(0.0)
    struck.timer.start(owner.throw, struck)
