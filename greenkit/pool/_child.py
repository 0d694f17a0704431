"""One greenlet of a pool: it runs one piece of work and always ends in an `Outcome`."""

from __future__ import annotations

from contextvars import ContextVar, copy_context
from itertools import count
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from gevent import Greenlet, GreenletExit, Timeout, get_hub

from greenkit._clock import MONOTONIC
from greenkit.pool._outcome import Killed, Outcome, OutOfTime

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from functools import partial

    from greenkit.wait import Pass

    Costs = float | Mapping[str, float]

R = TypeVar("R")

__all__ = ["Child", "children_above", "named_costs", "to_main"]

# The children this code runs in or on behalf of; inherited through pools, whichever pool that is.
# Numbers, since a child in its own context would be a cycle, which only the collector ends.
_above: ContextVar[tuple[int, ...]] = ContextVar("greenkit children above", default=())
_numbers = count()


class Child(Greenlet, Generic[R]):  # type: ignore[misc]  # gevent ships no types
    """Be a greenlet whose end is an `Outcome`; made by `GreenPool.spawn()`.

    It keeps what its work raised and does not let it escape to the hub; `get()` raises it.

    Attributes:
        number: Its own, in this process.
        outcome: How it ended; None while it runs.
        permit: The pass it runs under, if any; None when it has ended.
        slot: Whether it holds a slot of its pool.
        awaited: Whether somebody asked for its result, and so sees its error.
    """

    def __init__(
        self,
        work: partial[Any],
        *,
        permit: Pass | None,
        cost: Mapping[str, float],
        settle: Callable[[Any], Costs] | None,
        deadline: float | None,
        slot: bool,
    ) -> None:
        super().__init__()
        self.number = next(_numbers)
        # The maker's context variables, as they are now.
        self.gr_context = copy_context()
        self.gr_context.run(_above.set, (*_above.get(), self.number))
        self.outcome: Outcome[R] | None = None
        self.permit = permit
        self.slot = slot
        self._cost = cost
        self._deadline = deadline
        self.awaited = False
        self._work: partial[Any] | None = work
        self._settle = settle
        self._begun: float | None = None

    def _run(self) -> None:
        self._begun = MONOTONIC.now()
        work, self._work = self._work, None  # its arguments need not outlive it
        assert work is not None
        try:
            try:
                value = work() if self._deadline is None else _in_time(work, self._deadline, self.name)
                if self._settle is not None and self.permit is not None:
                    used = named_costs(self._settle(value))
                    self.permit.settle(**used)
                    self._cost = {**self._cost, **used}
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:
                self._end(None, error)
            else:
                self._end(value, None)
        except (KeyboardInterrupt, SystemExit) as error:  # the work's, or Ctrl-C on our own lines
            if self.outcome is None:
                self._end(None, error)
            to_main(error)
        finally:
            # An error's frames lead back here. With this child in hand, which holds the error, that
            # is a cycle: the work's locals, such as a connection, would wait for the collector.
            del self, work

    def get(self, block: bool = True, timeout: float | None = None) -> R:  # noqa: FBT001, FBT002 - gevent's
        """Return what the work returned, or raise what it raised; wait for it first.

        Raises:
            Killed: It was killed.
            gevent.Timeout: It did not end within `timeout` seconds, or at all when not `block`.

        Switches: may.
        """
        self.awaited = True
        super().get(block, timeout)
        try:
            return self.conclude().get()
        finally:
            del self  # as in _run()

    def conclude(self) -> Outcome[R]:
        """Return how it ended, also when it was killed before it ever ran.

        Switches: never.
        """
        if self.outcome is None:
            self._work = None
            self._end(None, self.exception or GreenletExit())
        assert self.outcome is not None
        return self.outcome

    def _end(self, value: Any, error: BaseException | None) -> None:
        if isinstance(error, GreenletExit):
            killed = Killed(
                f"{self.name} was killed "
                + ("before it began" if self._begun is None else "while it ran")
                + "; its work is not done"
            )
            killed.__cause__ = error
            error = killed
        waited = 0.0 if self.permit is None else self.permit.waited
        self.outcome = Outcome(value, error, waited, self._cost, self._begun, MONOTONIC.now())


def _in_time(work: partial[Any], seconds: float, name: str) -> Any:
    with Timeout(seconds) as timer:
        try:
            return work()
        except Timeout as error:
            if error is not timer:
                raise
            msg = f"{name} was ended after its {seconds:g} s; it may be half done"
            raise OutOfTime(msg) from error


def to_main(error: BaseException) -> None:
    """Raise Ctrl-C, which may strike in any greenlet, in the main one, as the hub does but unprinted.

    Switches: may.
    """
    get_hub().handle_system_error(type(error), error)


def children_above() -> tuple[int, ...]:
    """Return the numbers of the children, of any pool, this code runs in or on behalf of.

    Switches: never.
    """
    return _above.get()


def named_costs(costs: Costs) -> dict[str, float]:
    """Return costs by dimension; a bare number counts tokens.

    Switches: never.
    """
    return {"tokens": costs} if isinstance(costs, int | float) else dict(costs)
