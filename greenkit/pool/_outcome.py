"""How a piece of work ended: a value or an error, never one dressed up as the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from greenkit.errors import GreenkitError

__all__ = ["Killed", "Outcome"]

T = TypeVar("T")


class Killed(GreenkitError):  # noqa: N818 - an end, of which the reader decides whether it is bad
    """Say that a child was killed before it could give a value.

    Not a `GreenletExit`: raised again where the outcome is read, that would quietly kill the
    reader too.
    """


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """Tell how one piece of work ended.

    Attributes:
        value: What it returned; None when it failed.
        error: What it failed with, `Killed` when it was killed; None when it succeeded.
        waited: Seconds it waited for the limiter's permit.
        started: Reading of the monotonic clock when it began; None when it never ran.
        ended: Reading of the monotonic clock when it was over.
    """

    value: T | None
    error: BaseException | None
    waited: float
    started: float | None
    ended: float

    @property
    def ok(self) -> bool:
        """Tell whether it succeeded."""
        return self.error is None

    def get(self) -> T:
        """Return the value, or raise the error.

        Switches: never.
        """
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]  # a T: without error the value was returned
