"""A PostgreSQL server that speaks TLS: the system's, as the wheel's is built without."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest

from greenkit.testing import PostgresServer, _postgres

SYSTEM = Path("/usr/lib/postgresql")


@contextlib.contextmanager
def tls_postgres() -> Iterator[str]:
    """Start one and yield an address whose certificate is checked."""
    trustme = pytest.importorskip("trustme")
    found = sorted(SYSTEM.glob("*/bin/postgres"))
    if not found:
        missing = "no PostgreSQL with TLS: apt-get install postgresql"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_postgres, "postgres_bin", lambda: found[-1].parent)
        with PostgresServer(own=True, tcp=True) as server:
            data = Path(server.directory, "data")
            authority = trustme.CA()
            mine = authority.issue_cert("127.0.0.1")
            authority.cert_pem.write_to_path(data / "ca.pem")
            mine.cert_chain_pems[0].write_to_path(data / "server.crt")
            mine.private_key_pem.write_to_path(data / "server.key")
            owner = data.stat()
            for name in ("server.crt", "server.key"):
                os.chown(data / name, owner.st_uid, owner.st_gid)
                (data / name).chmod(0o600)
            _switch_on(server.dsn)
            yield f"{server.dsn}?sslmode=verify-full&sslrootcert={data / 'ca.pem'}"


def _switch_on(dsn: str) -> None:
    conn = psycopg2.connect(dsn)
    conn.autocommit = True
    with conn.cursor() as cursor:
        cursor.execute("ALTER SYSTEM SET ssl = on")
        cursor.execute("SELECT pg_reload_conf()")
    conn.close()
    for _ in range(100):  # the server reads its settings in its own time
        with contextlib.suppress(psycopg2.OperationalError):
            psycopg2.connect(f"{dsn}?sslmode=require").close()
            return
    raise AssertionError("the server does not speak TLS")
