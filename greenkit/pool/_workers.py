"""The children of one pool: taken on in the order slot, permit, greenlet, and counted out again.

Every way out of a child passes `_ended()`, exactly once, in the hub: also the way of one that was
killed before it ran. There and nowhere else do slot and permit go back.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from gevent import get_hub, joinall, killall
from gevent.event import Event
from greenlet import getcurrent

from greenkit._aimd import AdaptiveSize
from greenkit._clock import MONOTONIC
from greenkit.errors import PoolClosedError, WaitTimeout
from greenkit.pool._admission import Admission, Retries
from greenkit.pool._child import Child, children_above, named_costs
from greenkit.pool._outcome import Killed
from greenkit.wait import Deadline, WaitLine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from greenkit.pool._child import Costs
    from greenkit.pool._outcome import Outcome
    from greenkit.wait import Gate

    Told = Callable[[Child[Any]], None] | None

__all__ = ["Work", "Workers", "end_all"]

# How long killed children may take to end before somebody is told that they do not.
KILL_GRACE = 30.0
# The share of its most that a pool which adapts begins with.
_FIRST = 0.25


class Work(NamedTuple):
    """What a child is to do.

    Attributes:
        call: The function with its arguments.
        deadline: Seconds it may run, or None.
    """

    call: partial[Any]
    deadline: float | None


class Reader(Protocol):
    """Read results of a pool; a `Stream` is one."""

    def make_room(self, size: int) -> None:
        """Follow the new number of slots. Switches: never."""

    def cancel(self, why: str) -> None:
        """End from outside. Switches: never."""


class Workers:
    """Take children on and see them off.

    Attributes:
        line: The slots.
        children: Those alive.
        runs: Runs over an iterable that have not ended.
        closed: Whether no more are taken on.
        adaptive: Moves the number of slots, or None.
    """

    def __init__(
        self,
        size: int,
        *,
        name: str,
        limiter: Gate | Callable[..., Gate] | None,
        cost: Callable[..., Costs] | None,
        settle: Callable[[Any], Costs] | None,
        attempts: int,
        overload: Callable[[BaseException], bool] | None,
    ) -> None:
        self.name = name
        self.adaptive = None if overload is None else AdaptiveSize(1, size, start=size * _FIRST)
        self.line = WaitLine(size if self.adaptive is None else self.adaptive.size, name=name)
        self.children: set[Child[Any]] = set()
        self._numbers: set[int] = set()
        self._full_at = -1  # the number of the last child that found, or left, no free slot
        self.runs: set[Reader] = set()
        self.closed = False
        self.started = self.succeeded = self.failed = self.killed = 0
        # A gate has `permit()`; anything else says which gate a piece of work has.
        keyed = limiter is not None and not hasattr(limiter, "permit")
        self._gate_of: Callable[..., Gate] | None = limiter if keyed else None  # type: ignore[assignment]
        self._gate: Gate | None = None if keyed else limiter  # type: ignore[assignment]
        self._attempts = attempts
        self._cost = cost
        self._settle = settle
        self._overload = overload
        self._idle = Event()
        self._idle.set()

    @property
    def keyed(self) -> bool:
        """Tell whether each piece of work has a gate of its own, so that permits come before slots."""
        return self._gate_of is not None

    def take_on(self, work: Work, *, begun: Told = None, done: Told = None) -> Child[Any]:
        """Start `work` in a child, once there is a slot and a permit.

        From inside a full workers the work runs on the caller's slot, who waits for its end:
        queueing could wait for itself.

        Args:
            work: What to run.
            begun: Called with the child when it is made.
            done: Called in the hub, with the child, when it has ended.

        Switches: may.
        """
        mine = Admission()
        if not self.is_above():
            self.check_open()
            self._admit(mine, work, timeout=None)
            return self._start(self._make(work, mine), begun, done)
        self._admit_from_inside(mine, work)
        child = self._start(self._make(work, mine), begun, done)
        if not mine.slot:
            try:
                child.join()
            except BaseException:
                child.kill(block=False)
                raise
        return child

    def take_on_waiting(self, work: Work, *, begun: Told = None, done: Told = None) -> Child[Any]:
        """Start a child that waits for its permit and slot itself, so that others need not wait behind it.

        Switches: never.
        """
        self.check_open()
        return self._start(self._make(work, Admission(), self._admit_later(work)), begun, done)

    def take_on_nowait(self, work: Work) -> Child[Any] | None:
        """Start `work` in a child if slot and permit are there now, else return None.

        Switches: never, unless the limiter does to answer.
        """
        if not self.is_above():
            self.check_open()
        mine = Admission()
        try:
            self._admit(mine, work, timeout=0.0)
        except WaitTimeout:
            return None
        return self._start(self._make(work, mine), None, None)

    def is_above(self) -> bool:
        """Tell whether this code runs in a child of the workers, or on behalf of one. Switches: never."""
        return not self._numbers.isdisjoint(children_above())

    def resize(self, size: int) -> None:
        """Have `size` slots, or, when they adapt, at the most. Switches: never."""
        if self.adaptive is not None:
            self.adaptive.limit_to(size)
            size = self.adaptive.size
        self._set_slots(size)

    def check_open(self) -> None:
        """Raise PoolClosedError once the pool's block has ended. Switches: never."""
        if self.closed:
            msg = f"pool {self.name!r} is closed: its block has ended; the work was not started"
            raise PoolClosedError(msg)

    def end(self) -> None:
        """Kill the children and wait until none is left. Switches: may."""
        children = list(self.children)
        try:
            end_all(children)
        finally:
            for child in children:
                if child.ready():
                    self._ended(child, done=None)  # where Ctrl-C cut it short

    def join(self, timeout: float | None) -> None:
        """Wait until no child is left. Switches: may."""
        if not self._idle.wait(timeout):
            msg = f"pool {self.name!r}: {len(self.children)} children have not ended within {timeout:g} s"
            raise WaitTimeout(msg)

    def _make(
        self, work: Work, mine: Admission, admit: Callable[[Child[Any]], None] | None = None
    ) -> Child[Any]:
        """Make the child. From here to its start nothing switches, so nothing is held in vain."""
        return Child(
            work.call,
            admission=mine,
            settle=self._settle,
            deadline=work.deadline,
            admit=admit,
            failed=self._refused,
        )

    def _admit_later(self, work: Work) -> Callable[[Child[Any]], None]:
        def admit(child: Child[Any]) -> None:
            self._admit(child.admission, work, timeout=None)
            self._note_full(child)

        return admit

    def _admit(self, mine: Admission, work: Work, *, timeout: float | None) -> None:
        """Get the slot and the permit of `work`, or, where it has a gate of its own, the permit first."""
        first, second = (self._enter, self._seat) if self.keyed else (self._seat, self._enter)
        first(mine, work, timeout)
        try:
            second(mine, work, timeout)
            if not self.is_above():
                self.check_open()  # closed while we waited
        except BaseException:
            self._give_back(mine)
            raise

    def _admit_from_inside(self, mine: Admission, work: Work) -> None:
        """Get the permit of `work`, and a slot if one is free; else it runs on its caller's."""
        if not self.keyed:
            mine.slot = self.line.acquire_nowait()
        try:
            self._enter(mine, work, None)
        except BaseException:
            self._give_back(mine)
            raise
        if self.keyed:
            mine.slot = self.line.acquire_nowait()

    def _seat(self, mine: Admission, work: Work, timeout: float | None) -> None:
        """Wait for a slot."""
        if timeout is None:
            self.line.acquire(timeout=None)
        elif not self.line.acquire_nowait():
            msg = f"pool {self.name!r} has no slot free now"
            raise WaitTimeout(msg)
        mine.slot = True

    def _enter(self, mine: Admission, work: Work, timeout: float | None) -> None:
        """Wait for the permit of `work`."""
        call = work.call
        gate = self._gate if self._gate_of is None else self._gate_of(*call.args, **call.keywords)
        if gate is None:
            return
        costs = named_costs(self._cost(*call.args, **call.keywords)) if self._cost is not None else {}
        mine.cost = costs
        if self._attempts > 1:
            mine.retries = Retries(gate, most=self._attempts, timeout=timeout, costs=costs)
            mine.permit = mine.retries.enter()
        else:
            mine.permit = gate.permit(timeout=timeout, **costs).__enter__()

    def _give_back(self, mine: Admission) -> None:
        """Give slot and permit back of work that will not run: nothing of it was done."""
        permit, mine.permit = mine.permit, None
        slot, mine.slot = mine.slot, False
        try:
            if permit is not None:
                cancel = getattr(permit, "cancel", None)  # a gate need not have it
                permit.__exit__(None, None, None) if cancel is None else cancel()
        finally:
            if slot:
                self.line.release()

    def _note_full(self, child: Child[Any]) -> None:
        if self.adaptive is not None and self.line.statistics().free <= 0:
            self._full_at = child.number

    def _start(self, child: Child[Any], begun: Told, done: Told) -> Child[Any]:
        try:
            self.children.add(child)
            self._numbers.add(child.number)
            self._note_full(child)
            self.started += 1
            self._idle.clear()
            child.rawlink(partial(self._ended, done=done))
            child.start()
            if begun is not None:
                begun(child)
        except BaseException:  # Ctrl-C, which may strike at any line
            child.kill(block=False)
            self._ended(child, done=None)
            raise
        return child

    def _ended(self, child: Child[Any], *, done: Told) -> None:
        """See a child off. What is done of it is noted before it is done: Ctrl-C may have us called again."""
        outcome = child.conclude()
        error = outcome.error
        mine = child.admission
        permit, mine.permit = mine.permit, None
        slot, mine.slot = mine.slot, False
        try:
            if permit is not None:
                permit.__exit__(type(error) if error else None, error, None)
        finally:
            if slot:
                self.line.release()
            if child in self.children:
                self.children.discard(child)
                self._numbers.discard(child.number)
                self._count(error)
                self._tell(child, error, done)
            if not self.children:
                self._idle.set()
            self._adapt(child, outcome)  # last: what means "too much" may be foreign code

    def _tell(self, child: Child[Any], error: BaseException | None, done: Told) -> None:
        if done is not None:
            done(child)
        elif isinstance(error, Exception) and not child.awaited and not isinstance(error, Killed):
            # spawn(), and nobody waits for it: gevent's own greenlets would print it too. Of Ctrl-C
            # the main greenlet has heard already.
            get_hub().handle_error(child, type(error), error, error.__traceback__)

    def _count(self, error: BaseException | None) -> None:
        if error is None:
            self.succeeded += 1
        elif isinstance(error, Killed):
            self.killed += 1
        else:
            self.failed += 1

    def _adapt(self, child: Child[Any], outcome: Outcome[Any]) -> None:
        if self.adaptive is None:
            return
        if outcome.error is None:
            self.adaptive.succeeded(full=self._full_at >= child.number)
            self._follow(self.adaptive.size)
        elif outcome.started is not None and not isinstance(outcome.error, Killed):
            self._refused(child, outcome.error)

    def _refused(self, child: Child[Any], error: BaseException) -> None:
        """Have fewer slots if `error` says "too much": the last of a child, or one that is tried again."""
        if self.adaptive is not None and self._overload is not None and self._overload(error):
            self.adaptive.failed(began=child.tried_at, now=MONOTONIC.now())
            self._follow(self.adaptive.size)

    def _follow(self, size: int) -> None:
        if size != self.line.statistics().size:
            self._set_slots(size)

    def _set_slots(self, size: int) -> None:
        self.line.resize(size)
        for run in self.runs:
            run.make_room(size)


def end_all(greenlets: Iterable[Any]) -> None:
    """Kill `greenlets` and wait until they have ended, or, in the hub, just kill them.

    A kill or timeout that strikes meanwhile is raised afterwards: the join is not cut short.

    Raises:
        WaitTimeout: One refuses to end.

    Switches: may.
    """
    doomed = [greenlet for greenlet in greenlets if greenlet is not getcurrent()]
    killall(doomed, block=False)
    if getcurrent() is get_hub():
        return  # the collector ended a forgotten generator; the hub itself cannot wait
    deadline = Deadline.after(KILL_GRACE)
    struck: BaseException | None = None
    while doomed and not deadline.expired:
        try:
            joinall(doomed, timeout=deadline.remaining())
        except BaseException as error:
            struck = struck or error
        # Not `dead`: one that died of Ctrl-C is that only when the hub has come back to it.
        doomed = [greenlet for greenlet in doomed if not greenlet.ready()]
    if struck is not None:
        raise struck
    if doomed:
        msg = f"{len(doomed)} killed greenlets have not ended after {KILL_GRACE:g} s, such as {doomed[0]!r}"
        raise WaitTimeout(msg)
