"""Create and drop a database for one test, through whichever PostgreSQL driver is installed."""

from __future__ import annotations

import contextlib
import importlib
import secrets
from typing import TYPE_CHECKING, Any

from greenkit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from greenkit.testing._postgres import PostgresServer

__all__ = ["fresh_database"]


@contextlib.contextmanager
def fresh_database(server: PostgresServer) -> Iterator[str]:
    """Create an empty database, yield its address, and drop it with whatever is still connected.

    Raises:
        ConfigError: Neither psycopg2 nor psycopg is installed.

    Switches: may
    """
    name = f"greenkit_{secrets.token_hex(6)}"
    _execute(server.dsn, f'CREATE DATABASE "{name}"')
    try:
        yield server.dsn_for(name)
    finally:
        # FORCE, or a connection the test forgot would keep the database, and the test's error hidden.
        _execute(server.dsn, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def _execute(dsn: str, statement: str) -> None:
    connection = _driver().connect(dsn)
    try:
        connection.autocommit = True  # CREATE DATABASE runs in no transaction
        with connection.cursor() as cursor:
            cursor.execute(statement)
    finally:
        connection.close()


def _driver() -> Any:
    for name in ("psycopg2", "psycopg"):
        with contextlib.suppress(ImportError):
            return importlib.import_module(name)
    raise ConfigError(
        "neither psycopg2 nor psycopg is installed, so no database can be created for the test. "
        "Install one: pip install psycopg2-binary"
    )
