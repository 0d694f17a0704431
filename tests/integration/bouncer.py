"""PgBouncer in transaction mode in front of a test server, for the length of a block."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from greenkit.testing._dsn import parse_dsn

LINES = """
[databases]
* = host={host} port={port} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {size}
max_client_conn = 1000
logfile = {folder}/log
"""


@contextlib.contextmanager
def pgbouncer(dsn: str, size: int) -> Iterator[str]:
    """Start it and yield the address of the same database through it."""
    binary = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
    if binary is None:
        missing = "pgbouncer is not installed: apt-get install pgbouncer"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)
    parts = parse_dsn(dsn)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        listen = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="greenkit-bouncer-") as folder:
        Path(folder).chmod(0o777)
        config = Path(folder, "ini")
        config.write_text(
            LINES.format(
                host=parts["host"],
                port=parts["port"],
                user=parts["user"],
                listen=listen,
                size=size,
                folder=folder,
            )
        )
        # It refuses to run as root, and only the server's own user may enter where its socket is.
        where = Path(parts["host"])
        owner = where.stat().st_uid if where.is_dir() else "nobody"
        user = {"user": owner} if os.geteuid() == 0 else {}
        child = subprocess.Popen([binary, str(config)], stderr=subprocess.DEVNULL, **user)
        try:
            _await(listen, Path(folder, "log"))
            yield f"host=127.0.0.1 port={listen} user={parts['user']} dbname={parts['dbname']}"
        finally:
            child.terminate()
            child.wait(timeout=10)


def _await(port: int, log: Path) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise AssertionError(f"pgbouncer does not listen: {log.read_text() if log.exists() else 'no log'}")
