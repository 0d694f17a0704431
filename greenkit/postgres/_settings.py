"""What a `ConnectionPool` was told, checked once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from greenkit._clock import Clock

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Hold the arguments of a `ConnectionPool`, which documents them.

    Raises:
        ValueError: Sizes that contradict each other, negative times, session state with PgBouncer.
    """

    min_size: int
    max_size: int
    timeout: float
    max_waiting: int
    max_lifetime: float
    max_idle: float
    reconnect_timeout: float
    configure: Callable[[Any], object] | None
    check: Callable[[Any], object] | None
    reset: Callable[[Any], object] | None
    pgbouncer: bool
    reuse_taken_back: bool
    name: str
    clock: Clock

    def __post_init__(self) -> None:
        if self.max_size < 1 or not 0 <= self.min_size <= self.max_size:
            msg = (
                f"a pool needs 0 <= min_size <= max_size and 1 <= max_size, not {self.min_size} and "
                f"{self.max_size}"
            )
            raise ValueError(msg)
        for name in ("timeout", "max_waiting", "max_lifetime", "max_idle", "reconnect_timeout"):
            if getattr(self, name) < 0:
                msg = f"{name} is {getattr(self, name)!r}; it must not be negative"
                raise ValueError(msg)
        if self.pgbouncer and self.configure is not None:
            msg = (
                "configure= sets up a session, and with pgbouncer=True there is none: PgBouncer would give "
                "its settings to whoever comes next. Set them in the transaction (SET LOCAL), for the role "
                "(ALTER ROLE … SET), or connect without PgBouncer."
            )
            raise ValueError(msg)
