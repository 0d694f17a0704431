"""The app the worker tests run: tasks that note in Redis what really happened to them."""

from __future__ import annotations

import asyncio
import os
import sys
import time

import gevent
import redis
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded

from greenkit.errors import WouldWait

app = Celery("celery_app", broker=os.environ["TEST_BROKER"], backend=os.environ["TEST_BACKEND"])
app.conf.update(
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=1,
    task_acks_late=True,
    broker_transport_options={"polling_interval": 1} if "filesystem" not in os.environ["TEST_BROKER"] else {
        "data_folder_in": os.environ["TEST_FOLDER"],
        "data_folder_out": os.environ["TEST_FOLDER"],
        "control_folder": os.environ["TEST_FOLDER"],
    },
)  # fmt: skip
if "TEST_STOCK" not in os.environ:
    import greenkit.celery

    greenkit.celery.install(app, **eval(os.environ.get("TEST_OPTIONS", "{}")))
notes = redis.Redis.from_url(os.environ["TEST_NOTES"], max_connections=1000)


@app.task
def nap(seconds: float) -> str:
    time.sleep(seconds)
    return "done"


@app.task(ignore_result=True)
def count(number: int, seconds: float) -> None:
    notes.hincrby("runs", str(number), 1)
    time.sleep(seconds)
    notes.incr("ended")


@app.task
def leave(how: str) -> None:
    if how == "exit":
        sys.exit(1)
    raise {
        "timeout": gevent.Timeout(3),
        "killed": gevent.GreenletExit(),
        "cancelled": asyncio.CancelledError(),
        "interrupt": KeyboardInterrupt(),
        "memory": MemoryError("full"),
    }[how]


@app.task(time_limit=0.5)
def swallow() -> str:
    try:
        time.sleep(30)
    except:  # noqa: E722 - the point of this task
        pass
    return "the limit was defeated"


@app.task(time_limit=0.5)
def linger() -> None:
    try:
        time.sleep(30)
    finally:
        time.sleep(30)


@app.task(soft_time_limit=0.5)
def tidy() -> str:
    try:
        time.sleep(30)
    except SoftTimeLimitExceeded:
        return "tidied"
    return "never told"


@app.task(bind=True, max_retries=0)
def limited(self: object) -> int:
    if notes.incr("asked") < 4:
        raise WouldWait("full", eta=0.1)
    return int(self.request.retries)  # type: ignore[attr-defined]
