"""The arguments of a `ConnectionPool`, validated once."""

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
        TypeError: Something of another kind.
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
    query_timeout: float | None
    pgbouncer: bool
    reuse_taken_back: bool
    name: str
    clock: Clock

    def __post_init__(self) -> None:
        self._check_kinds()
        if self.max_size < 1 or not 0 <= self.min_size <= self.max_size:
            msg = (
                f"a pool needs 0 <= min_size <= max_size and 1 <= max_size, not {self.min_size} and "
                f"{self.max_size}"
            )
            raise ValueError(msg)
        if self.query_timeout is not None and self.query_timeout <= 0:
            msg = f"query_timeout is {self.query_timeout!r}; it must be positive, or None for no end"
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

    def _check_kinds(self) -> None:
        for name in ("min_size", "max_size", "max_waiting"):
            _must_be(name, getattr(self, name), int, "a whole number")
        for name in ("timeout", "max_lifetime", "max_idle", "reconnect_timeout", "query_timeout"):
            if name != "query_timeout" or self.query_timeout is not None:
                _must_be(name, getattr(self, name), (int, float), "seconds as a number")
        for name in ("configure", "check", "reset"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                msg = f"{name} is {value!r}; it must be a function that takes a connection, or None"
                raise ValueError(msg)


def _must_be(name: str, value: object, kinds: type | tuple[type, ...], words: str) -> None:
    # A setting read from the environment is a string, and "4" < 10 says nothing a user understands.
    if isinstance(value, bool) or not isinstance(value, kinds):
        msg = f"{name} is {value!r}, a {type(value).__name__}; it must be {words}"
        raise TypeError(msg)
