"""Close the long-lived loop; loads no asyncio, so that a worker which never used it can call it too."""

from __future__ import annotations

import sys

__all__ = ["close"]


def close(*, grace: float = 5.0) -> None:
    """Cancel the loop's tasks, finish its async generators and close it; a later call starts a new loop.

    Does nothing if no loop was started. A Celery worker with `greenkit.celery.install()` calls it when its
    last task has ended, after `on_worker_stop()`; every process calls it at exit.

    Args:
        grace: Seconds the tasks have to end.

    Switches: may.
    """
    started = sys.modules.get("greenkit.aio._portal")
    here = started.portal_if_started() if started is not None else None
    if here is not None:
        here.close(grace=grace)
