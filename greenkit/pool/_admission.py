"""What a piece of work has been given so far: its slot, its permit, and further attempts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from greenkit.wait import Gate, Pass

__all__ = ["Admission", "Retries"]


class Admission:
    """Hold what one piece of work got of its pool, until it is given back.

    Attributes:
        slot: Whether it holds a slot.
        permit: The pass it runs under, if any; None when it has ended.
        cost: What it is charged.
        retries: Its attempts, if it may have several.
    """

    __slots__ = ("cost", "permit", "retries", "slot")

    def __init__(self) -> None:
        self.slot = False
        self.permit: Pass | None = None
        self.cost: Mapping[str, float] = {}
        self.retries: Retries | None = None


class Retries:
    """Enter one attempt after the other, as `for attempt in limiter.attempts()` does.

    Args:
        gate: A limiter that has `attempts()`.
        most: Attempts at the most.
        timeout: Seconds the first permit may be waited for, or None.
        costs: Of each attempt.

    Raises:
        TypeError: The gate has no attempts.
    """

    __slots__ = ("_attempts", "_steps")

    def __init__(self, gate: Gate, *, most: int, timeout: float | None, costs: dict[str, float]) -> None:
        make: Any = getattr(gate, "attempts", None)
        if make is None:
            msg = f"attempts={most} takes a permit for each, and {gate!r} has no attempts(); use a Limiter"
            raise TypeError(msg)
        self._attempts = make(deadline=float("inf"), most=most, timeout=timeout, **costs)
        self._steps = iter(self._attempts)

    @property
    def number(self) -> int:
        """Return the number of the attempt under way, 1 for the first."""
        return int(self._attempts.number)

    def enter(self) -> Pass:
        """Wait out the pause before the next attempt, and for its permit. Switches: may."""
        next(self._steps)
        permit: Pass = self._attempts.__enter__()
        return permit

    def failed(self, error: BaseException) -> bool:
        """End the attempt with `error`; tell whether there is another. Switches: never."""
        return bool(self._attempts.__exit__(type(error), error, error.__traceback__))
