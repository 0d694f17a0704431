"""Tasks that end in every way there is, under every setting that decides about their message."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import time

import gevent
import redis
from celery import Celery, signals
from celery.exceptions import Ignore, Reject

app = Celery("celery_outcomes", broker=os.environ["TEST_BROKER"], backend=os.environ["TEST_BACKEND"])
app.conf.update(
    broker_connection_retry_on_startup=True,
    task_send_sent_event=True,
    task_track_started=True,
    worker_send_task_events=True,
)
app.conf.update(eval(os.environ.get("TEST_CONF", "{}")))
if "TEST_STOCK" not in os.environ:
    import greenkit.celery

    greenkit.celery.install(app)
notes = redis.Redis.from_url(os.environ["TEST_NOTES"])

ENDS = {
    "base": BaseException,
    "timeout": lambda: gevent.Timeout(3),
    "killed": gevent.GreenletExit,
    "cancelled": asyncio.CancelledError,
    "interrupt": KeyboardInterrupt,
    "memory": lambda: MemoryError("full"),
    "error": lambda: ValueError("no"),
    "reject": lambda: Reject("no"),
    "requeue": lambda: Reject("again", requeue=True),
    "ignore": Ignore,
}


def note(task_id: str, what: str) -> None:
    notes.rpush(f"story-{task_id}", what)


class Told(app.Task):  # type: ignore[misc, name-defined]
    """Note what Celery tells a task about its end."""

    abstract = True

    def on_failure(self, exc, task_id, args, kwargs, einfo):  # type: ignore[no-untyped-def]
        note(task_id, "on_failure")

    def on_success(self, retval, task_id, args, kwargs):  # type: ignore[no-untyped-def]
        note(task_id, "on_success")


def end(self: Told, how: str) -> str:
    if notes.incr(f"runs-{self.request.id}") > 1:
        return "again"
    if how == "exit":
        sys.exit(3)
    if how == "hard":
        time.sleep(30)
    if how == "soft":
        time.sleep(30)
    if how == "return":
        return "done"
    if how.startswith("nap"):
        time.sleep(float(how[3:]))
        return "done"
    if how == "spin":  # the limit passes, and nothing can be done about it
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            pass
        return "done"
    make = ENDS[how]
    raise make()


for late, on_failure, on_lost in itertools.product((True, False), repeat=3):
    app.task(
        end, bind=True, base=Told, name=f"end-{late:d}{on_failure:d}{on_lost:d}", acks_late=late,
        acks_on_failure_or_timeout=on_failure, reject_on_worker_lost=on_lost,
    )  # fmt: skip


def listen(name: str) -> None:
    def receiver(sender: object = None, task_id: str | None = None, **options: object) -> None:
        request = options.get("request")
        note(str(task_id or getattr(request, "id", None) or getattr(sender, "request", None)), name)

    getattr(signals, name).connect(receiver, weak=False)


for name in ("task_prerun", "task_success", "task_failure", "task_postrun", "task_retry", "task_revoked"):
    listen(name)
