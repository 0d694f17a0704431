"""Run thousands of slow calls at once in ordinary, synchronous Django and Celery code.

This is a lazy door: `import greenkit` loads nothing, so it can stand before the patch;
`greenkit.Limiter` imports the limits room when it is first asked for. To patch the process,
write `import greenkit.auto` as line 1 of the program, or start it with `greenkit run`.
"""

from __future__ import annotations

__version__ = "0.2.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    # For type checkers and editors: at run time the names come through `__getattr__`.
    from greenkit._offload import NativePool, offload, offloaded
    from greenkit.boot import PatchReport, evidence, patch
    from greenkit.errors import GreenkitError, LimitTimeout, RateLimited, WaitTimeout, WouldWait
    from greenkit.findings import Finding, Severity
    from greenkit.limits import Limiter
    from greenkit.pool import GreenPool, Outcome
    from greenkit.wait import WaitLine

_ROOMS = {
    "Finding": "greenkit.findings",
    "GreenPool": "greenkit.pool",
    "GreenkitError": "greenkit.errors",
    "LimitTimeout": "greenkit.errors",
    "Limiter": "greenkit.limits",
    "NativePool": "greenkit._offload",
    "Outcome": "greenkit.pool",
    "PatchReport": "greenkit.boot",
    "RateLimited": "greenkit.errors",
    "Severity": "greenkit.findings",
    "WaitLine": "greenkit.wait",
    "WaitTimeout": "greenkit.errors",
    "WouldWait": "greenkit.errors",
    "evidence": "greenkit.boot",
    "offload": "greenkit._offload",
    "offloaded": "greenkit._offload",
    "patch": "greenkit.boot",
}

__all__ = [
    "Finding",
    "GreenPool",
    "GreenkitError",
    "LimitTimeout",
    "Limiter",
    "NativePool",
    "Outcome",
    "PatchReport",
    "RateLimited",
    "Severity",
    "WaitLine",
    "WaitTimeout",
    "WouldWait",
    "__version__",
    "evidence",
    "offload",
    "offloaded",
    "patch",
]


def __getattr__(name: str) -> object:
    room = _ROOMS.get(name)
    if room is None:
        msg = f"module 'greenkit' has no attribute {name!r}"
        raise AttributeError(msg)
    # Late, or `import greenkit` would load the room, gevent, and all that gevent patches.
    from importlib import import_module

    value: object = getattr(import_module(room), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOMS})
