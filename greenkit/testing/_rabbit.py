"""A RabbitMQ broker of one's own, that never meets the system's.

Private: node name, ports of the broker, of Erlang's distribution and of its name daemon (epmd), home
directory with the cookie, data, plugins file. No plugins run.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from greenkit.testing._find import rabbitmq_script
from greenkit.testing._place import free_port
from greenkit.testing._server import EmbeddedServer

if TYPE_CHECKING:
    from greenkit.testing._guardian_process import GuardianProcess

__all__ = ["RabbitServer"]


class RabbitServer(EmbeddedServer):
    """Run RabbitMQ for the length of a block, on a loopback port.

    Order: the broker `GREENKIT_AMQP` names (a URL), a system installation.

    Args:
        own: Start one even when the environment names one.
        start_timeout: Seconds the broker may take until it answers; Erlang is slow to start.
    """

    kind: ClassVar[str] = "rabbitmq"
    variable: ClassVar[str] = "GREENKIT_AMQP"
    _ready: ClassVar[str] = "Server startup complete"

    def __init__(self, *, own: bool = False, start_timeout: float = 90.0) -> None:
        super().__init__(own=own, start_timeout=start_timeout)
        self._password = secrets.token_hex(16)
        self._node = f"greenkit-{secrets.token_hex(4)}@localhost"
        self._ports: tuple[int, int, int] = (0, 0, 0)
        self._script = Path()

    @property
    def url(self) -> str:
        """Return the broker's address, an `amqp://` URL."""
        if self._given:
            return self._given
        if self._guardian is None:
            raise self._refusal("has no address")
        return f"amqp://greenkit:{self._password}@127.0.0.1:{self._ports[0]}//"

    @property
    def broker_url(self) -> str:
        """Return the address for Celery; the same as `url`."""
        return self.url

    def control(self, *arguments: str, timeout: float = 60.0) -> None:
        """Run `rabbitmqctl` on this broker, such as ``control("close_all_connections", "maintenance")``.

        Raises:
            ServerStartError: It failed; the message ends with what it and the broker wrote.

        Switches: may
        """
        guardian = self._running()
        _, env = self._command(guardian)
        self._run(
            guardian, [str(self._script.with_name("rabbitmqctl")), *arguments], timeout=timeout, env=env
        )

    def _find(self) -> None:
        self._script = rabbitmq_script()

    def _draw_ports(self) -> bool:
        self._ports = (free_port(), free_port(), free_port())
        return True

    def _prepare(self, guardian: GuardianProcess) -> None:
        _write(guardian, {"enabled_plugins": "[].\n", "rabbitmq-env.conf": "", "advanced.config": "[].\n"})

    def _command(self, guardian: GuardianProcess) -> tuple[list[str], dict[str, str]]:
        def inside(name: str) -> str:
            return str(Path(guardian.directory, name))

        amqp, distribution, epmd = self._ports
        _write(guardian, {
            "rabbitmq.conf": (
                f"listeners.tcp.1 = 127.0.0.1:{amqp}\n"
                f"default_user = greenkit\ndefault_pass = {self._password}\n"
                "log.console = true\nlog.console.level = info\nlog.file = false\n"
                "disk_free_limit.absolute = 1MB\n"
            )
        })  # fmt: skip
        return [str(self._script)], {
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_CONF_ENV_FILE": inside("rabbitmq-env.conf"),
            "RABBITMQ_CONFIG_FILE": inside("rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": inside("advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": inside("enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": inside("data"),
            "RABBITMQ_LOG_BASE": inside("logs"),
            "RABBITMQ_PID_FILE": inside("pid"),
            "RABBITMQ_LOGS": "-",
            # The script then becomes the broker, instead of a shell that waits for it.
            "RUNNING_UNDER_SYSTEMD": "1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "ERL_EPMD_PORT": str(epmd),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_CRASH_DUMP_SECONDS": "0",
        }


def _write(guardian: GuardianProcess, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = Path(guardian.directory, name)
        path.write_text(text, encoding="ascii")
        # Written by root, read by the broker; the directory around it is closed to everybody else.
        path.chmod(0o644)
