"""The app of a worker started in every way there is; a module of another name can add to its start."""

from __future__ import annotations

import os
import time

import redis
from celery import Celery

import greenkit.celery

app = Celery("celery_start")
if "TEST_CONFIG" not in os.environ:  # else the command line names one
    app.conf.broker_url = os.environ["TEST_BROKER"]
app.conf.worker_pool = os.environ.get("TEST_POOL", "prefork")
app.conf.update(task_ignore_result=True, worker_prefetch_multiplier=4)
greenkit.celery.install(app)
notes = redis.Redis.from_url(os.environ["TEST_NOTES"])
TOGETHER = 8


@app.task
def meet() -> None:
    """End only when eight of these run at once."""
    notes.sadd("pids", os.getpid())
    notes.incr("here")
    end = time.monotonic() + 30
    while int(notes.get("here") or 0) < TOGETHER:
        if time.monotonic() > end:
            return
        time.sleep(0.02)
    notes.incr("met")
