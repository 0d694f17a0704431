"""One greenlet of a pool: it runs one piece of work and always ends in an `Outcome`."""

from __future__ import annotations

from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from gevent import Greenlet, GreenletExit

from greenkit._clock import MONOTONIC
from greenkit.pool._outcome import Killed, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from functools import partial

    from greenkit.wait import Pass

    Costs = float | Mapping[str, float]

__all__ = ["Child", "named_costs"]


class Child(Greenlet):  # type: ignore[misc]  # gevent ships no types
    """Be a greenlet whose end is an `Outcome`; made by `GreenPool.spawn()`.

    It keeps what its work raised and does not let it escape to the hub; `get()` raises it.

    Attributes:
        outcome: How it ended; None while it runs.
        permit: The pass it runs under, or None.
        awaited: Whether somebody asked for its result, and so sees its error.
    """

    def __init__(
        self,
        work: partial[Any],
        *,
        permit: Pass | None,
        settle: Callable[[Any], Costs] | None,
    ) -> None:
        super().__init__()
        # The maker's context variables, as they are now.
        self.gr_context = copy_context()
        self.outcome: Outcome[Any] | None = None
        self.permit = permit
        self.awaited = False
        self._work: partial[Any] | None = work
        self._settle = settle
        self._begun: float | None = None

    def _run(self) -> None:
        self._begun = MONOTONIC.now()
        work, self._work = self._work, None  # its arguments need not outlive it
        assert work is not None
        try:
            value = work()
            if self._settle is not None and self.permit is not None:
                self.permit.settle(**named_costs(self._settle(value)))
        except (KeyboardInterrupt, SystemExit) as error:
            self._end(None, error)
            raise  # Ctrl-C may strike in any greenlet; the hub hands it to the main one
        except BaseException as error:
            self._end(None, error)
        else:
            self._end(value, None)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:  # noqa: FBT001, FBT002 - gevent's
        """Return what the work returned, or raise what it raised; wait for it first.

        Raises:
            Killed: It was killed.
            gevent.Timeout: It did not end within `timeout` seconds, or at all when not `block`.

        Switches: may.
        """
        self.awaited = True
        super().get(block, timeout)
        return self.conclude().get()

    def conclude(self) -> Outcome[Any]:
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
        self.outcome = Outcome(value, error, waited, self._begun, MONOTONIC.now())


def named_costs(costs: Costs) -> dict[str, float]:
    """Return costs by dimension; a bare number counts tokens.

    Switches: never.
    """
    return {"tokens": costs} if isinstance(costs, int | float) else dict(costs)
