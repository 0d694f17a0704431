"""Connect SQLAlchemy to a `ConnectionPool`; SQLAlchemy is imported on the first call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from greenkit.postgres._pool import ConnectionPool

__all__ = ["for_sqlalchemy"]


def for_sqlalchemy(pool: ConnectionPool[Any]) -> dict[str, Any]:
    """Return the arguments with which `sqlalchemy.create_engine()` borrows from `pool`.

    `create_engine("postgresql+psycopg2://", **for_sqlalchemy(pool))`. Where it connects to, how many
    connections there are and how long they are waited for is the pool's to say, not the URL's.

    Switches: never.
    """
    from greenkit.postgres._sqlalchemy import LendingPool  # optional package

    return {"pool": LendingPool(pool)}
