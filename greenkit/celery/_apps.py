"""Which apps are installed, and whether in time."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from celery.app.base import Celery

if TYPE_CHECKING:
    from contextlib import ExitStack

__all__ = ["INSTALLED", "LATE", "PREPARED", "TOO_LATE", "WORKING", "came_too_late", "installed", "real_app"]

INSTALLED: dict[Any, ExitStack] = {}
"""App → what `uninstall()` has to take back."""
WORKING: weakref.WeakSet[Any] = weakref.WeakSet()
"""Apps whose worker has begun in this process."""
PREPARED: weakref.WeakSet[Any] = weakref.WeakSet()
"""Those of them whose worker got what `install()` promises."""
LATE: weakref.WeakSet[Any] = weakref.WeakSet()
"""Those that were installed only when it had begun."""
TOO_LATE = (
    "install(app) came when the worker had begun: it runs on Celery's own pool, and no option holds. "
    "Call greenkit.celery.install(app) in the module of the app, not in a signal's receiver or a task"
)


def installed(app: Celery) -> bool:
    """Tell whether `install(app)` was called and not taken back."""
    return real_app(app) in INSTALLED


def came_too_late(app: Celery) -> bool:
    """Tell whether `install(app)` was called in this process when the worker had begun."""
    return real_app(app) in LATE


def real_app(app: Any) -> Any:
    """Return the app behind a proxy such as `celery.current_app`.

    Raises:
        TypeError: It is none.
    """
    get = getattr(app, "_get_current_object", None)
    real = get() if get is not None else app
    if not isinstance(real, Celery):
        raise TypeError(f"install() and uninstall() take the Celery app itself, not {real!r}")
    return real
