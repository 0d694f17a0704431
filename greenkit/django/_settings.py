"""The `GREENKIT` dict of a project's settings, read and checked in one place."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from greenkit.errors import ConfigError

__all__ = ["GreenkitSettings", "read"]


@dataclass(frozen=True, slots=True)
class GreenkitSettings:
    """Hold the settings of `GREENKIT`; its keys are lower case too.

    Attributes:
        processes: Processes with a pool of their own that share one database: the checks compare
            the sum with the server's limit.
        strict: Whether findings that are errors stop `manage.py` (True) or only warn.
    """

    processes: int = 1
    strict: bool = True


def read(value: Any) -> GreenkitSettings:
    """Return the settings in `value`, the content of `settings.GREENKIT` (None when absent).

    Raises:
        ConfigError: It is not a dict, names an unknown setting, or holds a value of the wrong kind.
    """
    if value is None:
        return GreenkitSettings()
    if not isinstance(value, dict):
        msg = f"settings.GREENKIT is {value!r}; it must be a dict such as {{'processes': 4}}"
        raise ConfigError(msg)
    known = [field.name for field in fields(GreenkitSettings)]
    unknown = sorted(str(name) for name in value if name not in known)
    if unknown:
        msg = f"settings.GREENKIT has {', '.join(unknown)}; it knows {', '.join(known)}"
        raise ConfigError(msg)
    processes, strict = value.get("processes", 1), value.get("strict", True)
    if type(processes) is not int or processes < 1:
        msg = f"settings.GREENKIT['processes'] is {processes!r}; it must be a whole number from 1"
        raise ConfigError(msg)
    if type(strict) is not bool:
        msg = f"settings.GREENKIT['strict'] is {strict!r}; it must be True or False"
        raise ConfigError(msg)
    return GreenkitSettings(processes=processes, strict=strict)
