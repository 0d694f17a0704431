"""The `DatabaseWrapper` behind `ENGINE = "greenkit.django.postgresql"`.

Django's own wrapper, whichever driver it has chosen, with two differences: `OPTIONS["pool"]` is a
`greenkit.postgres.ConnectionPool` (for psycopg2 too), and in a patched process the driver is made
cooperative when the first connection is opened. Loaded by Django.
"""

from __future__ import annotations

import copy
import itertools
import weakref
from contextlib import suppress
from functools import cache
from typing import Any, ClassVar

from django.core.exceptions import ImproperlyConfigured
from django.db.backends.base.base import NO_DB_ALIAS
from django.db.backends.postgresql import base as django_base
from django.db.backends.postgresql.psycopg_any import is_psycopg3, mogrify
from gevent import monkey

from greenkit import postgres
from greenkit.django.postgresql._options import pool_options
from greenkit.django.postgresql._pool import AliasPool
from greenkit.django.postgresql._releasing import releasing

__all__ = ["DatabaseWrapper"]

_cursor_numbers = itertools.count(1)


class DatabaseWrapper(django_base.DatabaseWrapper):  # type: ignore[misc]
    """Speak to PostgreSQL as Django does, over connections lent by one pool per alias."""

    # Not Django's dict: its pools are psycopg_pool's.
    _connection_pools: ClassVar[dict[tuple[str, Any], AliasPool]] = {}
    _lender: AliasPool | None = None
    settings_dict: dict[str, Any]
    connection: Any
    run_on_commit: list[Any]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._chunked: list[Any] = []
        self._cursors: weakref.WeakSet[Any] = weakref.WeakSet()
        self._kept = 0  # set-ups under way, which need the connection between their queries

    @property
    def pool(self) -> AliasPool | None:
        """Return this alias's pool, made when first asked for; None when none is configured.

        Switches: never.
        """
        wanted = self.settings_dict["OPTIONS"].get("pool")
        if not wanted or self.alias == NO_DB_ALIAS:
            return None
        # By name as well: the test runner gives an alias another database.
        found = self._connection_pools.get((self.alias, self.settings_dict["NAME"]))
        return found or self._make_pool(pool_options(wanted) or {})

    def _make_pool(self, options: dict[str, Any]) -> AliasPool:
        self._check_settings(options)
        options.setdefault("name", self.alias)
        options.setdefault("check", self._ping if self.settings_dict["CONN_HEALTH_CHECKS"] else None)
        try:
            made = AliasPool(self._open_for_pool, **options)
        except (TypeError, ValueError) as error:
            msg = f"DATABASES[{self.alias!r}]['OPTIONS']['pool']: {error}"
            raise ImproperlyConfigured(msg) from error
        # Of two threads that came together the first wins; a pool opens nothing when made.
        return self._connection_pools.setdefault((self.alias, self.settings_dict["NAME"]), made)

    def _check_settings(self, options: dict[str, Any]) -> None:
        where, settings = f"DATABASES[{self.alias!r}]", self.settings_dict
        if settings.get("CONN_MAX_AGE", 0) != 0:
            msg = (
                f"Pooling doesn't support persistent connections. {where} has OPTIONS['pool'], which keeps "
                f"connections open, so CONN_MAX_AGE must be 0, not {settings['CONN_MAX_AGE']!r}. Use the "
                "pool's max_lifetime."
            )
            raise ImproperlyConfigured(msg)
        if not options.get("pgbouncer"):
            return
        for name in ("assume_role", "isolation_level"):
            if settings["OPTIONS"].get(name) is not None:
                msg = (
                    f"{where} has OPTIONS['pool']['pgbouncer'] and OPTIONS[{name!r}], which is a session's "
                    "setting: PgBouncer would give it to whoever comes next. Set it for the role instead "
                    "(ALTER ROLE … SET), or connect without PgBouncer."
                )
                raise ImproperlyConfigured(msg)
        # A cursor outside a transaction would be another server process's.
        settings["DISABLE_SERVER_SIDE_CURSORS"] = True

    def close_pool(self) -> None:
        """Close this alias's pools; connections still lent are closed when they come back.

        Switches: may.
        """
        for key in [key for key in self._connection_pools if key[0] == self.alias]:
            self._connection_pools.pop(key).close(timeout=0.0)

    def get_connection_params(self) -> dict[str, Any]:
        """Return Django's parameters for the driver, which must not see our pool option."""
        whole = self.settings_dict
        options = {key: value for key, value in whole["OPTIONS"].items() if key != "pool"}
        # On a copy of the wrapper: two native threads that open at once would each put back what the
        # other had put there, and `"pool"` would be gone for good.
        plain = copy.copy(self)
        plain.settings_dict = {**whole, "OPTIONS": options}
        params: dict[str, Any] = super(DatabaseWrapper, plain).get_connection_params()
        return params

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Borrow a connection from the pool, or open one. Switches: may."""
        make_cooperative()
        lender = self._lender = self.pool
        conn = super().get_new_connection(conn_params)
        if lender is not None:
            lender.lend_to(self, conn)
        return conn

    def connect(self) -> None:
        """Borrow and set up as Django does; what that asks the server keeps the connection. Switches: may."""
        self._kept += 1
        try:
            super().connect()
        finally:
            self._kept -= 1

    def make_cursor(self, cursor: Any) -> Any:
        """Return Django's cursor; with `release_between_queries` its end may be the connection's."""
        return self._noted(super().make_cursor(cursor))

    def make_debug_cursor(self, cursor: Any) -> Any:
        """Return Django's logging cursor, treated alike."""
        return self._noted(super().make_debug_cursor(cursor))

    def set_autocommit(self, *args: Any, **options: Any) -> None:
        """Do what Django does; the end of the outermost `atomic()` comes here. Switches: may."""
        super().set_autocommit(*args, **options)
        self.release()

    def run_and_clear_commit_hooks(self) -> None:
        """Run what waits for the commit, without a connection where it is not needed. Switches: may."""
        self.release()
        super().run_and_clear_commit_hooks()

    def release(self) -> None:
        """Give the connection back if `release_between_queries` is set and nothing needs its session.

        Kept are transactions, open cursors, connections without autocommit and those shared with others.
        Switches: may.
        """
        lender = self._lender
        if lender is None or not lender.release_between_queries or self.connection is None:
            return
        if self._kept or self.in_atomic_block or not self.autocommit or self.allow_thread_sharing:
            return
        if any(not chunk.closed for chunk in self._chunked) or any(not c.closed for c in self._cursors):
            return
        self._cursors.clear()
        hooks = self.run_on_commit  # close() drops them, and they are about to run
        self.close()  # not `_close()`: engines built on this one forget in it what they know of the session
        self.run_on_commit = hooks

    def _noted(self, cursor: Any) -> Any:
        lender = self._lender
        if lender is None or not lender.release_between_queries:
            return cursor
        self._cursors.add(cursor)
        return releasing(cursor, self)

    def _close(self) -> None:
        conn, lender = self.connection, self._lender
        if conn is None:
            return
        with self.wrap_database_errors:
            if lender is None:
                conn.close()
            else:
                # Forgotten first: giving back may switch, and a kill there must not leave the
                # wrapper with a connection somebody else has.
                self.connection = self._lender = None
                try:
                    self._close_chunked()
                finally:
                    lender.putconn(conn)

    def chunked_cursor(self) -> Any:
        """Return a server-side cursor, with a name no other of the process has. Switches: may."""
        # Django counts per wrapper; the next borrower of the session would begin with the same name.
        self._named_cursor_idx = next(_cursor_numbers)
        cursor = super().chunked_cursor()
        self._chunked = [other for other in self._chunked if not other.closed]
        self._chunked.append(cursor)
        return cursor

    def _close_chunked(self) -> None:
        """Close what abandoned iterators left open: their end would reach another borrower's session."""
        chunked, self._chunked = self._chunked, []
        for cursor in chunked:
            if not cursor.closed:
                with suppress(self.Database.Error):  # in a failed transaction; the rollback ends it
                    cursor.cursor.close()

    def _open_for_pool(self) -> Any:
        params = self.get_connection_params()
        conn = self.Database.connect(**params)
        try:
            conn.autocommit = True  # Django sets what it wants when it borrows
            self._configure_timezone(conn)
            self._configure_role(conn)
        except BaseException:
            conn.close()
            raise
        return conn

    def _configure_role(self, connection: Any) -> bool:
        role = self.settings_dict["OPTIONS"].get("assume_role")
        if not role:
            return False
        # Django's composes the SQL with the wrapper's own cursor, which would ask the pool again.
        with connection.cursor() as cursor:
            cursor.execute(mogrify("SET ROLE %s", [role], connection))
        return True

    @staticmethod
    def _ping(conn: Any) -> None:
        with conn.cursor() as cursor:
            cursor.execute("SELECT 1")


def make_cooperative() -> None:
    """Install greenkit's care for Django's driver in a patched process; psycopg2 only without a callback."""
    # GK302 says so when somebody else's callback is there: replacing it is not ours to decide.
    if not monkey.is_module_patched("socket"):
        return
    if is_psycopg3:
        _install_psycopg3()
    elif django_base.psycopg2.extensions.get_wait_callback() is None:
        postgres.install("psycopg2")


@cache
def _install_psycopg3() -> None:
    postgres.install("psycopg")
