"""Run thousands of slow calls at once in ordinary, synchronous Django and Celery code.

This is a lazy door: `import greenkit` loads nothing, so it can stand before the patch;
`greenkit.Limiter` imports the limits room when it is first asked for. To patch the process,
write `import greenkit.auto` as line 1 of the program, or start it with `greenkit run`.
"""

from __future__ import annotations

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_ROOMS = {
    "Finding": "greenkit.findings",
    "GreenPool": "greenkit.pool",
    "GreenkitError": "greenkit.errors",
    "Limiter": "greenkit.limits",
    "NativePool": "greenkit._offload",
    "Outcome": "greenkit.pool",
    "PatchReport": "greenkit.boot",
    "Severity": "greenkit.findings",
    "WaitLine": "greenkit.wait",
    "evidence": "greenkit.boot",
    "offload": "greenkit._offload",
    "offloaded": "greenkit._offload",
    "patch": "greenkit.boot",
}

__all__ = [  # noqa: PLE0604 - the names come through `__getattr__`
    "__version__",
    *_ROOMS,
]


def __getattr__(name: str) -> Any:
    room = _ROOMS.get(name)
    if room is None:
        msg = f"module 'greenkit' has no attribute {name!r}"
        raise AttributeError(msg)
    # Late, or `import greenkit` would load the room, gevent, and all that gevent patches.
    from importlib import import_module

    value = getattr(import_module(room), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOMS})
