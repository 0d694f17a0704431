"""A TCP proxy between a program under test and its server, that misbehaves on command."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args
from urllib.parse import urlsplit, urlunsplit

from greenkit.errors import ConfigError, GreenkitError, ServerStartError
from greenkit.testing._side_process import SideProcess

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["FaultProxy", "ProxyStatistics"]

Direction = Literal["up", "down", "both"]
Side = Literal["client", "server"]

_PROGRAM = str(Path(__file__).with_name("_fault_relay.py").resolve())
_PORTS = {"redis": 6379, "amqp": 5672, "postgres": 5432, "postgresql": 5432, "http": 80}
_REPLY_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class ProxyStatistics:
    """What a proxy has carried.

    Attributes:
        open: Connections that are open now.
        opened: Connections it has opened to its server in all.
        bytes_up: Bytes carried from clients to the server.
        bytes_down: Bytes carried from the server to clients.
    """

    open: int
    opened: int
    bytes_up: int
    bytes_down: int


class FaultProxy:
    """Stand between clients and a server, and hurt their connections.

    A context manager. It runs in a process of its own, so a blocked hub or a busy test delays nothing, and
    is gone when the process that started it is. A fault is in force when its call returns, for the
    connections that are open and for those to come; `heal()` ends all.

    Directions: "up" is from client to server, "down" from server to client.

    Args:
        target: Where the server is: a URL such as ``redis://127.0.0.1:6379/0``, a (host, port), or the path
            of a unix socket.
        host: Address to listen on.
        port: TCP port to listen on; 0 picks a free one.
    """

    def __init__(
        self, target: str | tuple[str, int] | os.PathLike[str], *, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self._given = str(target) if isinstance(target, str) and "://" in target else ""
        self._target: tuple[str, int] | str = _place(self._given) if self._given else _plain(target)
        self.host, self._wanted = host, port
        self._port = 0
        self._helper: _Relay | None = None

    def __repr__(self) -> str:
        where = f"{self.host}:{self._port}" if self._helper else "stopped"
        return f"<FaultProxy {where} to {self._target}>"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """Return the port it listens on."""
        self._running()
        return self._port

    @property
    def url(self) -> str:
        """Return the target's URL with this proxy's address in it."""
        if not self._given:
            raise GreenkitError(f"{self!r} was given no URL; use host and port, or url_for() with one.")
        return self.url_for(self._given)

    def url_for(self, url: str) -> str:
        """Return `url` with this proxy's address in place of its own."""
        self._running()
        parts = urlsplit(url)
        who, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{who}{at}{self.host}:{self._port}"))

    def start(self) -> Self:
        """Start to listen.

        Raises:
            ServerStartError: It cannot listen there; the message says why.

        Switches: may
        """
        if self._helper is None:
            config = {"target": self._target, "host": self.host, "port": self._wanted}
            helper = _Relay(_PROGRAM, str(os.getpid()), json.dumps(config))
            if "error" in helper.greeting:
                helper.close()
                raise ServerStartError(
                    f"a fault proxy cannot listen on {self.host}:{self._wanted}: {helper.greeting['error']}"
                )
            self._helper, self._port = helper, int(helper.greeting["port"])
        return self

    def stop(self) -> None:
        """End it and every connection; doing it twice is fine.

        Switches: may
        """
        helper, self._helper = self._helper, None
        if helper is not None:
            helper.close()

    def statistics(self) -> ProxyStatistics:
        """Return what it has carried.

        Switches: may
        """
        answer = self._ask("status")
        return ProxyStatistics(**{name: answer[name] for name in ProxyStatistics.__slots__})

    # -- what it does to connections ---------------------------------------------------------------
    def slow(
        self,
        *,
        latency: float = 0.0,
        jitter: float = 0.0,
        bytes_per_second: float = 0.0,
        direction: Direction = "both",
    ) -> None:
        """Delay every piece by `latency` and up to `jitter` seconds; let so many bytes pass (0: any number).

        Switches: may
        """
        for name, value in (("latency", latency), ("jitter", jitter), ("bytes_per_second", bytes_per_second)):
            if not value >= 0:
                raise ConfigError(f"{name} must be 0 or more, is {value!r}")
        self._ask(
            "shape", direction=_direction(direction), latency=latency, jitter=jitter, rate=bytes_per_second
        )

    def pause(self, *, direction: Direction = "both") -> None:
        """Hold every byte, and new connections; nothing is lost, and `resume` lets them go on.

        Switches: may
        """
        self._ask("flow", direction=_direction(direction), on=False)

    def resume(self, *, direction: Direction = "both") -> None:
        """End `pause`.

        Switches: may
        """
        self._ask("flow", direction=_direction(direction), on=True)

    def black_hole(self, *, direction: Direction = "both") -> None:
        """Lose every byte, ends of connections too; nobody is told. `heal` resets what lost something.

        Switches: may
        """
        self._ask("drop", direction=_direction(direction), on=True)

    def cut(self, most: int | None = None) -> int:
        """Reset the open connections, or at most so many of them, drawn at random; return how many.

        Switches: may
        """
        return int(self._ask("cut", most=most)["count"])

    def cut_after(self, count: int | None, *, direction: Direction = "down") -> None:
        """Reset each connection once `count` more bytes have passed on it; None ends that.

        Switches: may
        """
        if count is not None and count < 1:
            raise ConfigError(f"count must be 1 or more bytes, or None, is {count!r}; cut() resets at once")
        self._ask("cut_after", direction=_direction(direction), count=count)

    def half_close(self, side: Side = "client") -> int:
        """Send one side an end of file on every connection, carry on what it sends; return how many.

        Switches: may
        """
        if side not in get_args(Side):
            raise ConfigError(f"side must be 'client' or 'server', is {side!r}")
        return int(self._ask("half_close", side=side)["count"])

    def refuse(self) -> None:
        """Refuse new connections, as a server that is not there; open ones live on (`cut` ends them).

        Switches: may
        """
        self._ask("refuse")

    def accept(self) -> None:
        """End `refuse`.

        Switches: may
        """
        self._ask("accept")

    def heal(self) -> None:
        """End every fault.

        Switches: may
        """
        self.slow()
        self.cut_after(None, direction="both")
        self._ask("drop", direction="both", on=False)
        self.resume()
        self.accept()

    def _ask(self, do: str, **details: Any) -> dict[str, Any]:
        return self._running().ask(do, reply_timeout=_REPLY_TIMEOUT, **details)

    def _running(self) -> _Relay:
        if self._helper is None:
            raise GreenkitError(f"{self!r} is not running. Call start(), or use it in a with statement.")
        return self._helper


class _Relay(SideProcess):
    """The process that relays."""

    __slots__ = ()

    role = "fault proxy"


def _direction(name: str) -> str:
    if name not in get_args(Direction):
        raise ConfigError(f"direction must be 'up', 'down' or 'both', is {name!r}")
    return name


def _place(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    port = parts.port or _PORTS.get(parts.scheme)
    if not parts.hostname or not port:
        raise ConfigError(
            f"target must be a URL with a host and a port, (host, port) or the path of a socket, is {url!r}"
        )
    return parts.hostname, port


def _plain(target: str | tuple[str, int] | os.PathLike[str]) -> tuple[str, int] | str:
    if isinstance(target, tuple):
        return target[0], int(target[1])
    return os.fspath(target)
