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

    from greenkit.pool._admission import Admission

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
        admission: Its slot and its permit.
        tried_at: Reading of the monotonic clock when the attempt under way began.
        awaited: Whether somebody asked for its result, and so sees its error.
    """

    def __init__(
        self,
        work: partial[Any],
        *,
        admission: Admission,
        settle: Callable[[Any], Costs] | None,
        deadline: float | None,
        admit: Callable[[Child[R]], None] | None = None,
        failed: Callable[[Child[R], BaseException], None] | None = None,
    ) -> None:
        super().__init__()
        self.number = next(_numbers)
        # The maker's context variables, as they are now.
        self.gr_context = copy_context()
        self.gr_context.run(_above.set, (*_above.get(), self.number))
        self.outcome: Outcome[R] | None = None
        self.admission = admission
        self.tried_at = 0.0
        self._deadline = deadline
        self._admit = admit
        self._failed = failed
        self._waited = 0.0
        self.awaited = False
        self._work: partial[Any] | None = work
        self._settle = settle
        self._begun: float | None = None

    def _run(self) -> None:
        work, self._work = self._work, None  # its arguments need not outlive it
        assert work is not None
        try:
            try:
                admit, self._admit = self._admit, None
                if admit is not None:
                    admit(self)
                self._begun = MONOTONIC.now()
                value = self._tried(work)
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

    def _tried(self, work: partial[Any]) -> Any:
        """Return what the work returned, tried again where its attempts allow it."""
        mine = self.admission
        try:
            while True:
                self.tried_at = MONOTONIC.now()
                try:
                    value = work() if self._deadline is None else _in_time(work, self._deadline, self.name)
                    if self._settle is not None and mine.permit is not None:
                        used = named_costs(self._settle(value))
                        mine.permit.settle(**used)
                        mine.cost = {**mine.cost, **used}
                    return value
                except BaseException as error:
                    if mine.retries is None or not mine.retries.failed(error):
                        raise
                    if self._failed is not None:
                        self._failed(self, error)
                assert mine.permit is not None
                self._waited += mine.permit.waited
                mine.permit = mine.retries.enter()
        finally:
            del self, work, mine  # as in _run()

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
        mine = self.admission
        waited = self._waited + (0.0 if mine.permit is None else mine.permit.waited)
        tries = 1 if mine.retries is None else mine.retries.number
        mine.retries = None  # it holds the error of the last failure, whose frames hold this
        self.outcome = Outcome(value, error, waited, mine.cost, self._begun, MONOTONIC.now(), tries)


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
