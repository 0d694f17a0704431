"""Make the drivers cooperative, undo it, and say whether they are."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Any

from gevent import monkey

from greenkit.boot import on_import
from greenkit.errors import ConfigError

__all__ = ["callback", "install", "installed", "uninstall"]


_hooked: set[str] = set()
"""Drivers whose import we hear of; `_wanted` says of which we still care."""
_wanted: set[str] = set()


def install(*drivers: str) -> None:
    """Make psycopg2 and psycopg 3 let other greenlets run while they wait for the server.

    A driver that is not imported yet is seen to when it is. psycopg2 gets our wait callback in
    place of whichever was there. psycopg 3 waits in Python where its C wait function was chosen
    because it was imported before the patch; it keeps deadlines, and cancels the query of a killed
    greenlet. Any number of calls does the same as one. Whoever sets psycopg2's callback after us
    replaces us.

    Args:
        drivers: "psycopg2", "psycopg"; none means both.

    Raises:
        ConfigError: None of them can be imported.

    Switches: never.
    """
    ways = {"psycopg2": _install_psycopg2, "psycopg": _install_psycopg3}
    if unknown := set(drivers) - ways.keys():
        msg = f"install() knows psycopg2 and psycopg, not {', '.join(sorted(unknown))}"
        raise ConfigError(msg)
    available = [name for name in drivers or ways if name in sys.modules or find_spec(name) is not None]
    if not available:
        msg = "there is no PostgreSQL driver to install: pip install 'greenkit[postgres]' (psycopg2)"
        raise ConfigError(msg)
    _wanted.update(available)
    for name in available:
        if sys.modules.get(name) is not None:
            ways[name]()
        elif name not in _hooked:
            _hooked.add(name)
            on_import(name, ways[name])


def installed() -> bool:
    """Tell whether psycopg2's wait callback is ours, or will be when psycopg2 is imported.

    Somebody else's callback does not count; `check()` names it.

    Switches: never.
    """
    if "psycopg2" not in sys.modules:
        return "psycopg2" in _wanted
    current = callback()
    if current is None:
        return False
    from greenkit.postgres._psycopg2 import wait_callback  # optional driver

    return current is wait_callback


def uninstall() -> None:
    """Remove our callback; another library's stays.

    Switches: never.
    """
    if "psycopg2" in sys.modules and installed():
        from psycopg2 import extensions  # optional driver

        extensions.set_wait_callback(None)
        _unguard()
    if "greenkit.postgres._psycopg3" in sys.modules:
        sys.modules["greenkit.postgres._psycopg3"].uninstall()
    _wanted.clear()


def _install_psycopg2() -> None:
    if "psycopg2" in _wanted:
        import psycopg2  # optional driver
        from psycopg2 import extensions

        from greenkit.postgres._connect import connecting  # it imports psycopg2, as this does:
        from greenkit.postgres._psycopg2 import wait_callback

        extensions.set_wait_callback(wait_callback)
        # Where `connect()` enters C, and so where those who imported `connect` early end up too.
        module: Any = psycopg2
        if not hasattr(module._connect, "plain"):
            guarding: Any = connecting(module._connect)
            guarding.plain = module._connect
            module._connect = guarding


def _unguard() -> None:
    module: Any = sys.modules["psycopg2"]
    module._connect = getattr(module._connect, "plain", module._connect)


def _install_psycopg3() -> None:
    # Unpatched, its waiting is the right one: there is no hub to wait in.
    if "psycopg" in _wanted and monkey.is_module_patched("select"):
        from greenkit.postgres import _psycopg3  # optional driver

        _psycopg3.install()


def callback() -> Any:
    """Return psycopg2's wait callback, ours or not."""
    if "psycopg2" not in sys.modules:
        return None
    from psycopg2 import extensions

    return extensions.get_wait_callback()
