"""The task that is counted while its workers are killed."""

from __future__ import annotations

import os
import time

import redis
from celery import Celery

import greenkit.celery

app = Celery("celery_kills", broker=os.environ["KILLS_BROKER"])
app.conf.update(
    task_acks_late=True,
    worker_prefetch_multiplier=2,
    broker_connection_retry_on_startup=True,
    broker_transport_options=eval(os.environ["KILLS_TRANSPORT"]),
)
greenkit.celery.install(app)
notes = redis.Redis.from_url(os.environ["KILLS_NOTES"], max_connections=1000)


@app.task(ignore_result=True)
def count(number: int, seconds: float) -> None:
    notes.rpush("log", f"begun {number} {time.monotonic()}")
    time.sleep(seconds)
    notes.rpush("log", f"ended {number} {time.monotonic()}")
