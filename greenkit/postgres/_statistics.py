"""The statistics of a `ConnectionPool`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from greenkit.postgres._borrowers import Borrower

__all__ = ["ConnectionPoolStatistics"]


@dataclass(frozen=True, slots=True)
class ConnectionPoolStatistics:
    """Show a `ConnectionPool` at one instant.

    Attributes:
        max_size: Connections there may be at the most.
        size: Connections there are, those being opened or closed included.
        idle: Of these, open and lent to nobody.
        in_use: Lent to somebody.
        waiting: Greenlets or threads waiting for one.
        peak: The largest `size` so far.
        created: Connections opened so far.
        thrown_away: Connections closed so far: broken, too old, idle for too long.
        taken_back: Connections whose borrower ended without giving them back.
        timeouts: Waits that ended with `PoolTimeout`.
        connect_errors: Attempts to connect that failed so far.
        away: Seconds since the server began to refuse; 0.0 while it lets us in.
        full_at: Connections of this pool that were open when the server last refused another one because it
            has as many as it may; None when it did not.
        borrowers: Who holds what is lent, the longest first.
    """

    max_size: int
    size: int
    idle: int
    in_use: int
    waiting: int
    peak: int
    created: int
    thrown_away: int
    taken_back: int
    timeouts: int
    connect_errors: int
    away: float
    full_at: int | None = None
    borrowers: tuple[Borrower, ...] = ()
