"""SQLAlchemy over a `ConnectionPool`: its engine borrows from ours instead of its own.

`postgres.for_sqlalchemy()` is the way in. SQLAlchemy keeps a record beside each connection, made once: what
its dialect asks of a new connection is asked once, not at every checkout.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from greenlet import getcurrent
from sqlalchemy.pool import Pool

if TYPE_CHECKING:
    from greenkit.postgres._pool import ConnectionPool

__all__ = ["LendingPool"]


class LendingPool(Pool):
    """Be a SQLAlchemy pool that lends what `lender` lends; sizes and deadlines are the lender's."""

    def __init__(self, lender: ConnectionPool[Any], **options: Any) -> None:
        super().__init__(self._borrowed, **options)
        self._lender = lender
        self._records: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
        self._on_its_way: dict[Any, Any] = {}

    def status(self) -> str:
        """Return the lender's account."""
        return repr(self._lender)

    def recreate(self) -> LendingPool:
        """Return another pool with the same lender."""
        return LendingPool(self._lender, _dispatch=self.dispatch, dialect=self._dialect)

    def dispose(self) -> None:
        """Have every connection replaced; the lender stays open."""
        self._lender.drain()

    def _borrowed(self) -> Any:
        """Be SQLAlchemy's creator: the connection `_do_get` has at hand, or else a new loan."""
        return self._on_its_way.pop(getcurrent(), None) or self._lender.getconn()

    def _do_get(self) -> Any:
        conn = self._lender.getconn()
        try:
            record = self._records.get(conn)
            if record is None or record.dbapi_connection is not conn:
                self._on_its_way[getcurrent()] = conn
                record = self._records[conn] = self._create_connection()
        except BaseException:
            self._on_its_way.pop(getcurrent(), None)
            self._give_back(conn)
            raise
        return record

    def _do_return_conn(self, record: Any) -> None:
        if record.dbapi_connection is not None:  # else it was invalidated, and so closed below
            self._give_back(record.dbapi_connection)

    def _close_connection(self, connection: Any, *, terminate: bool = False) -> None:
        self._records.pop(connection, None)
        try:
            super()._close_connection(connection, terminate=terminate)
        finally:
            self._give_back(connection)

    def _give_back(self, conn: Any) -> None:
        # The lender may have taken it back: its borrower ended, and SQLAlchemy learns it last.
        with suppress(ValueError):
            self._lender.putconn(conn)
