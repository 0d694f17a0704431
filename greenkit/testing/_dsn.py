"""Read and write PostgreSQL addresses; pure text, no driver needed.

Both spellings libpq knows are read: `postgresql://user@host/db?…` and `host=… dbname=…`. Ours are written as
URIs, which psycopg2, psycopg, SQLAlchemy and Django's URL helpers all take.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from greenkit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["parse_dsn", "write_dsn"]


def parse_dsn(dsn: str) -> dict[str, str]:
    """Return the connection parameters of a DSN by libpq's names (host, port, user, password, dbname, …).

    Raises:
        ConfigError: Neither a URI nor key=value words.
    """
    if dsn.startswith(("postgresql://", "postgres://")):
        parts = urlsplit(dsn)
        pairs = {
            "host": parts.hostname, "port": parts.port and str(parts.port), "user": parts.username,
            "password": parts.password, "dbname": parts.path.lstrip("/"),
        }  # fmt: skip
        found = {name: unquote(value) for name, value in pairs.items() if value}
        return {**found, **dict(parse_qsl(parts.query))}
    words = [word.partition("=") for word in shlex.split(dsn)]
    if not words or not all(name and equals for name, equals, _ in words):
        raise ConfigError(f"{dsn!r} is no PostgreSQL address; write postgresql://user@host:port/database")
    return {name: value for name, _, value in words}


def write_dsn(parameters: Mapping[str, str]) -> str:
    """Return the URI of connection parameters; a host that is a directory goes into the query."""
    rest = dict(parameters)
    user, password = rest.pop("user", ""), rest.pop("password", "")
    host, port, dbname = rest.pop("host", ""), rest.pop("port", ""), rest.pop("dbname", "")
    who = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
    if host.startswith("/"):
        rest = {"host": host, **({"port": port} if port else {}), **rest}
        host = port = ""
    where = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in rest.items())
    return (
        f"postgresql://{who}{'@' if who else ''}{where}/{quote(dbname, safe='')}{'?' if query else ''}{query}"
    )
