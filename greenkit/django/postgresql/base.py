"""The `DatabaseWrapper` behind `ENGINE = "greenkit.django.postgresql"`.

Django's own wrapper, whichever driver it has chosen, with two differences: `OPTIONS["pool"]` is a
`greenkit.postgres.ConnectionPool` (for psycopg2 too), and in a patched process the driver is made
cooperative when the first connection is opened. Loaded by Django.
"""

from __future__ import annotations

import copy
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

__all__ = ["DatabaseWrapper"]


class DatabaseWrapper(django_base.DatabaseWrapper):  # type: ignore[misc]
    """Speak to PostgreSQL as Django does, over connections lent by one pool per alias."""

    # Not Django's dict: its pools are psycopg_pool's.
    _connection_pools: ClassVar[dict[tuple[str, Any], AliasPool]] = {}
    _lender: AliasPool | None = None
    settings_dict: dict[str, Any]
    connection: Any

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
        check = self._ping if self.settings_dict["CONN_HEALTH_CHECKS"] else None
        try:
            made = AliasPool(self._open_for_pool, check=check, reset=_to_autocommit, **options)
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
                lender.putconn(conn)

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
    """Install greenkit's care for Django's driver in a patched process; psycopg2 only without a callback.

    Switches: never.
    """
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


def _to_autocommit(conn: Any) -> None:
    if not conn.autocommit:
        conn.autocommit = True
