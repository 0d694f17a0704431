"""What `GREENKIT_*` variables say, read and checked in one place.

Pure: an environment in, a `Settings` out. A wrong value is an error before anything is patched; a
variable nobody reads is most likely a typing mistake, so it is named, with the nearest real one.
"""

from __future__ import annotations

from typing import NamedTuple

from greenkit.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["MODES", "VARIABLES", "Settings", "asyncio_mode", "read_settings", "unknown_variables"]

ASYNCIO_MODES = ("on", "warn", "off")
MODES = ("off", "report", "strict", "repair")

_PREFIX = "GREENKIT_"

VARIABLES: dict[str, str] = {
    "GREENKIT": "what greenkit.auto does: " + ", ".join(MODES),
    "GREENKIT_REPAIR": "1 binds stale names of your own modules again",
    "GREENKIT_CHILDREN": "1 patches the Python programs this process starts",
    "GREENKIT_REPORT": "file the doctor writes its findings to",
    "GREENKIT_WATCHDOG": "how long the hub may stand still, such as 100ms",
    "GREENKIT_METRICS": "address to answer /metrics, /healthz and /readyz at, such as 127.0.0.1:9808",
    "GREENKIT_METRICS_DIR": "directory where processes that share the address meet",
    "GREENKIT_ALIVE": "directory for the files that `greenkit alive` looks at",
    "GREENKIT_ASYNCIO": "whether each greenlet has a running asyncio loop of its own: on, warn, off",
    "GREENKIT_OBSERVE": "set by `greenkit doctor -- COMMAND` for the program it observes",
    "GREENKIT_OBSERVE_COMMAND": "set with it: the command, as it is typed",
    "GREENKIT_OBSERVE_STALL": "set with it: seconds a program may stand still",
    "GREENKIT_CORPUS_HOOK": "used by the collection of broken programs greenkit is tried on",
    "GREENKIT_AMQP": "RabbitMQ server for tests",
    "GREENKIT_POSTGRES": "PostgreSQL server for tests",
    "GREENKIT_REDIS": "Redis or Valkey server for tests",
}
"""Every variable some part of greenkit reads, and what for."""


class Settings(NamedTuple):
    """Hold what the environment asks of the bootstrap.

    Attributes:
        mode: `GREENKIT`: "off", "report", "strict" or "repair".
        repair: Bind stale names again; by the mode or by `GREENKIT_REPAIR=1`.
        children: `GREENKIT_CHILDREN=1`: the start-up hook patches Python programs started from here.
    """

    mode: str = "report"
    repair: bool = False
    children: bool = False


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Return the settings in `environ`; an empty value is as good as none.

    Raises:
        ConfigError: A value that means nothing; the message lists those that do.

    Switches: never.
    """
    mode = environ.get("GREENKIT") or "report"
    if mode not in MODES:
        raise ConfigError(f"GREENKIT={mode!r} is none of {', '.join(MODES)}")
    asyncio_mode(environ)  # read when asyncio is imported; wrong values are said at the start
    repair = _flag(environ, "GREENKIT_REPAIR")
    return Settings(
        mode=mode,
        # "off" is what one sets at night to have greenkit out of the way: nothing overrules it.
        repair=mode == "repair" or (repair and mode != "off"),
        children=_flag(environ, "GREENKIT_CHILDREN"),
    )


def asyncio_mode(environ: Mapping[str, str]) -> str:
    """Return what `GREENKIT_ASYNCIO` asks for: "on" (also when unset), "warn" or "off".

    Raises:
        ConfigError: A value that means nothing; the message lists those that do.

    Switches: never.
    """
    mode = environ.get("GREENKIT_ASYNCIO") or "on"
    if mode not in ASYNCIO_MODES:
        raise ConfigError(f"GREENKIT_ASYNCIO={mode!r} is none of {', '.join(ASYNCIO_MODES)}")
    return mode


def _flag(environ: Mapping[str, str], name: str) -> bool:
    value = environ.get(name) or "0"
    if value not in {"0", "1"}:
        raise ConfigError(f"{name}={value!r} is neither 1 nor 0")
    return value == "1"


def unknown_variables(names: Iterable[str]) -> tuple[str, ...]:
    """Return one sentence for each `GREENKIT_*` name nobody reads, with the nearest one somebody does.

    Switches: never.
    """
    unknown = sorted(name for name in names if name.startswith(_PREFIX) and name not in VARIABLES)
    return tuple(f"{name} is not a setting of greenkit{_nearest(name)}" for name in unknown)


def _nearest(name: str) -> str:
    # Late: a process without a typing mistake does not need it.
    from difflib import get_close_matches

    near = get_close_matches(name[len(_PREFIX) :], [one[len(_PREFIX) :] for one in VARIABLES], n=1)
    return f"; did you mean {_PREFIX}{near[0]}?" if near else f"; there are {', '.join(VARIABLES)}"
