"""Spare httpx a trip through the hub for every idle connection at every call.

httpcore and httpcore2 ask each pooled connection "is there something to read?" by a poll with a
time-out of zero before they assign a call. Under gevent's patch each of these is a trip through the
hub: half of the CPU of 400 calls (httpcore2 2.16, `_backends/sync.py`; encode/httpcore #1035).
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING

from greenkit.http._look import native_look

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["tune_httpx"]

_PACKAGES = ("httpcore2", "httpcore")
_NAME = "is_socket_readable"
_log = logging.getLogger(__name__)


def tune_httpx() -> tuple[str, ...]:
    """Make httpx and httpx2 look at their idle connections without a trip through the hub.

    Loads those of httpcore and httpcore2 that are installed. Harmless when repeated, and in a
    process that is not patched. Where the internals look different it does nothing and logs so.

    Returns:
        The packages that are tuned now, such as ``("httpcore2",)``.

    Switches: never.
    """
    return tuple(package for package in _PACKAGES if _tune(package))


def _tune(package: str) -> bool:
    name = f"{package}._backends.sync"
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != package:
            _log.warning("%s has no %s: left as it is, its calls may cost more CPU", package, error.name)
        return False
    if getattr(getattr(module, _NAME, None), "greenkit_tuned", False):
        return True
    if not _looks_known(module):
        _log.warning("%s has no %s: left as it is, its calls may cost more CPU", name, _NAME)
        return False
    look = native_look()
    look.greenkit_tuned = True  # type: ignore[attr-defined]
    setattr(module, _NAME, look)
    return True


def _looks_known(module: ModuleType) -> bool:
    code = getattr(getattr(module, _NAME, None), "__code__", None)
    return code is not None and code.co_argcount == 1
