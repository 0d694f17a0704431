"""How a piece of work ended: a value or an error, never one dressed up as the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from gevent import Timeout

from greenkit.errors import GreenkitError
from greenkit.responses import chain, is_slow, read

__all__ = ["Killed", "OutOfTime", "Outcome", "is_overload"]

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")

_OVERLOADED = frozenset({429, 503, 529})


class Killed(GreenkitError):  # noqa: N818 - an end, of which the reader decides whether it is bad
    """Say that a child was killed before it could give a value.

    Not a `GreenletExit`: raised again where the outcome is read, that would quietly kill the
    reader too.
    """


class OutOfTime(GreenkitError):  # noqa: N818 - see Killed
    """Say that a piece of work was ended because it ran longer than its pool's `deadline`.

    Inside it a `gevent.Timeout` was raised, so it may be half done.
    """


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """Tell how one piece of work ended.

    Attributes:
        value: What it returned; None when it failed.
        error: What it failed with, `Killed` when it was killed, `OutOfTime` when its time was up;
            None when it succeeded.
        waited: Seconds it waited for the limiter's permit, for those of all attempts.
        cost: What it was charged, by dimension: as `settle` said, else as `cost` estimated.
        started: Reading of the monotonic clock when it began; None when it never ran.
        ended: Reading of the monotonic clock when it was over.
        attempts: How often it was tried.
    """

    value: T | None
    error: BaseException | None
    waited: float
    cost: Mapping[str, float]
    started: float | None
    ended: float
    attempts: int = 1

    @property
    def ok(self) -> bool:
        """Tell whether it succeeded."""
        return self.error is None

    def get(self) -> T:
        """Return the value, or raise the error.

        Switches: never.
        """
        if self.error is not None:
            try:
                raise self.error
            finally:
                del self  # the traceback holds this frame: no cycle through it
        return self.value  # type: ignore[return-value]  # a T: without error the value was returned


def is_overload(error: BaseException) -> bool:
    """Tell whether an error says "too much at once": 429, 503, 529, or any kind of time-out.

    Switches: never.
    """
    if any(isinstance(link, TimeoutError | Timeout | OutOfTime) for link in chain(error)):
        return True
    answer = read(error)
    return (answer.status in _OVERLOADED and answer.heals) if answer.status is not None else is_slow(error)
