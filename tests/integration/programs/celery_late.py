"""Tasks a worker meets only when it warms up."""

from __future__ import annotations

import time

from celery import shared_task


@shared_task
def late(seconds: float) -> str:
    time.sleep(seconds)
    return "done"
