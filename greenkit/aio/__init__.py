"""Call async code from greenlets and threads, and make asyncio work in greenlets.

`run()`, `gather()` and `iterate()` use one long-lived loop; `asyncio.run()` and asgiref's bridges work in
every greenlet of a patched process. `greenkit.boot.isolate_loops()` sets this up.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from greenkit.aio._asgiref import install_asgiref, uninstall_asgiref
    from greenkit.aio._calls import end_tasks, gather, iterate, loop, run, statistics
    from greenkit.aio._close import close
    from greenkit.aio._install import install_loop, replace_uvloop, uninstall_loop
    from greenkit.aio._portal import LoopStatistics
    from greenkit.aio._watchers import watch_tasks

_FILES = {
    "LoopStatistics": "_portal",
    "close": "_close",
    "end_tasks": "_calls",
    "gather": "_calls",
    "install_asgiref": "_asgiref",
    "install_loop": "_install",
    "iterate": "_calls",
    "loop": "_calls",
    "replace_uvloop": "_install",
    "run": "_calls",
    "statistics": "_calls",
    "uninstall_asgiref": "_asgiref",
    "uninstall_loop": "_install",
    "watch_tasks": "_watchers",
}

__all__ = [
    "LoopStatistics",
    "close",
    "end_tasks",
    "gather",
    "install_asgiref",
    "install_loop",
    "iterate",
    "loop",
    "replace_uvloop",
    "run",
    "statistics",
    "uninstall_asgiref",
    "uninstall_loop",
    "watch_tasks",
]


def __getattr__(name: str) -> object:
    file = _FILES.get(name)
    if file is None:
        msg = f"module 'greenkit.aio' has no attribute {name!r}"
        raise AttributeError(msg)
    # Late: the hooks run while asyncio itself is being imported, and must not import all of it.
    from importlib import import_module

    value: object = getattr(import_module(f"greenkit.aio.{file}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_FILES})
