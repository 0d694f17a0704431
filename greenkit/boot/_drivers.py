"""What each driver needs in a patched process, done when its package is imported and not before."""

from __future__ import annotations

import sys

from greenkit.boot._imports import call, on_import

__all__ = ["DRIVER_HOOKS", "hook_drivers", "init_grpc", "serve_drivers"]

DRIVER_HOOKS = (
    ("psycopg2", "greenkit.postgres:install"),
    ("psycopg", "greenkit.postgres:install"),
    ("grpc", "greenkit.boot:init_grpc"),
    ("asyncio.events", "greenkit.boot:isolate_loops"),
    ("asyncio.unix_events", "greenkit.aio:install_loop"),
    ("asgiref.sync", "greenkit.aio:install_asgiref"),
    ("uvloop", "greenkit.aio:replace_uvloop"),
    ("httpcore2._backends.sync", "greenkit.http:tune_httpx"),
    ("httpcore._backends.sync", "greenkit.http:tune_httpx"),
)
"""(package, "module:function" called once the package is imported), for patched processes."""

_UNSERVED = {"no-wait-callback": "psycopg2", "decided-at-import": "psycopg", "no-grpc-hook": "grpc"}


def hook_drivers() -> None:
    """Have every driver served: at once when it is there, else when it is imported.

    Switches: may, when a driver that is there is served.
    """
    for package, hook in DRIVER_HOOKS:
        on_import(package, hook)


def serve_drivers() -> list[str]:
    """Serve the drivers that nobody served, now or when they are imported; return a line for each there.

    A wait callback the program set itself stays.

    Switches: may.
    """
    # Late: it reads source files, and only a repair asks.
    from greenkit.boot._libraries import library_findings

    hooks = dict(DRIVER_HOOKS)
    bare = [_UNSERVED[one.rule] for one in library_findings() if one.rule in _UNSERVED]
    for package in bare:
        call(hooks[package])
    for package, hook in hooks.items():
        if package not in sys.modules:
            on_import(package, hook)
    return [f"{package} -> {hooks[package]}" for package in bare]


def init_grpc() -> None:
    """Have grpc's C core wait on gevent's loop; it must happen before the first channel.

    Switches: may, inside gevent's set-up of the loop.
    """
    # Late: only a process that uses grpc has it.
    from grpc.experimental import gevent

    gevent.init_gevent()
