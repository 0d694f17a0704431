"""One result backend for all greenlets of a process.

`app.backend` is a `threading.local` value (celery/app/base.py 5.7): under gevent every greenlet that
stores or awaits a result makes a backend, a client and two connections of its own, which costs more
than the task, and greenlets that share one by accident run into redis-py's `MaxConnectionsError`.
Celery has no setting for the class of the connection pool, so the making of the backend is wrapped.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["keep_apart", "share"]

_MAKER = "_get_backend"


def share(app: Any, *, wanted: Callable[[], bool]) -> None:
    """Have all greenlets of `app` use one backend, from the first one made in a patched process.

    Args:
        app: The Celery app, which need not be configured yet.
        wanted: Asked when a backend is made, when the configuration is there.
    """
    keep_apart(app)
    make = getattr(app, _MAKER, None)
    if make is None:
        return

    def made() -> Any:
        backend = make()
        # Asked of a loaded module: this must not be what loads gevent in a web process.
        monkey = sys.modules.get("gevent.monkey")
        if monkey is not None and monkey.is_module_patched("threading") and wanted():
            from greenkit.celery._upstream import share_backend  # late: loads gevent

            share_backend(backend)
        return backend

    setattr(app, _MAKER, made)


def keep_apart(app: Any) -> None:
    """Take `share` back for backends made from now on."""
    vars(app).pop(_MAKER, None)
