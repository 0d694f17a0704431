"""The worker of `soak`: an LLM call within a shared quota and one INSERT, with every small failure there is.

It samples itself to SOAK_SAMPLES: what the kernel, the C allocator and Python's say of its memory, and how
many objects, greenlets, descriptors and threads there are.
"""

from __future__ import annotations

import greenkit.auto  # isort: skip
import ctypes
import gc
import json
import os
import sys
import threading
import time
from pathlib import Path

import django
import gevent
import greenlet
from celery import Celery
from django.conf import settings

import greenkit.celery
import greenkit.http
from greenkit import Limiter

EVERY = float(os.environ["SOAK_EVERY"])
POSTGRES = dict(part.split("=", 1) for part in os.environ["SOAK_POSTGRES"].split())
settings.configure(
    SECRET_KEY="x", USE_TZ=True, DEFAULT_AUTO_FIELD="django.db.models.BigAutoField", LOGGING_CONFIG=None,
    INSTALLED_APPS=["greenkit.django"],
    DATABASES={"default": {
        "ENGINE": "greenkit.django.postgresql", "OPTIONS": {"pool": {"max_size": 4}},
        "NAME": POSTGRES["dbname"], "USER": POSTGRES["user"],
        "HOST": POSTGRES["host"], "PORT": POSTGRES["port"],
    }},
)  # fmt: skip
django.setup()

from django.db import connection

app = Celery("soak", broker=os.environ["SOAK_BROKER"])
app.conf.update(
    task_acks_late=True, task_ignore_result=True, worker_prefetch_multiplier=1, greenkit_drain_timeout=20,
    task_default_queue=os.environ["SOAK_NAME"], broker_connection_retry_on_startup=True,
)  # fmt: skip
greenkit.celery.install(app)
llm = Limiter("llm", requests="400/s", tokens="100000/s", share=os.environ["SOAK_LIMITS"])
http = greenkit.http.session(100, timeout=(2.0, 5.0))
done: list[None] = []


def call(number: int) -> int:
    messages = [{"role": "user", "content": f"hi {number}"}]
    answer = http.post(
        os.environ["SOAK_LLM"] + "/v1/chat/completions", json={"model": "m", "messages": messages}
    )
    answer.raise_for_status()
    return answer.json()["usage"]["total_tokens"]


@app.task(bind=True, name="soak.work", soft_time_limit=3, time_limit=4)
def work(self: object, number: int, how: str) -> None:
    for attempt in llm.attempts(tokens=50, deadline=20):
        with attempt as permit:
            permit.settle(tokens=call(number))
    if how == "raise":
        raise ValueError(f"wanted {number}")
    if how == "timeout":
        with gevent.Timeout(0.05):
            gevent.sleep(10)
    if how == "soft":
        gevent.sleep(30)
    if how == "cancel":
        with gevent.Timeout(0.05, False), connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(5)")
    if how == "child":
        gevent.spawn(gevent.sleep, 0.2)
    if how == "key":
        llm.key(number % 50).try_permit(tokens=1)
    if how == "exit":
        raise SystemExit(3)
    if how == "retry" and self.request.retries == 0:
        raise self.retry(countdown=0.5)
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO soak (number) VALUES (%s)", [number])
    done.append(None)


class Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
                     "fordblks", "keepcost")
    ]  # fmt: skip


libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Mallinfo2


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def sample() -> dict[str, float]:
    """Look at everything; no collection first, unless asked: it would change what is looked at."""
    if os.environ.get("SOAK_COLLECT"):
        gc.collect()
    objects = gc.get_objects()
    malloc = libc.mallinfo2()
    seen = {
        "at": time.time(), "done": len(done), "rss": resident(), "objects": len(objects),
        "greenlets": sum(isinstance(one, greenlet.greenlet) for one in objects),
        "blocks": sys.getallocatedblocks(), "threads": threading.active_count(),
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "malloc": malloc.arena + malloc.hblkhd, "malloc used": malloc.uordblks + malloc.hblkhd,
        "malloc free": malloc.fordblks,
    }  # fmt: skip
    del objects
    if os.environ.get("SOAK_TRIM"):
        libc.malloc_trim(0)
        seen["rss after malloc_trim"] = resident()
    return seen


@greenkit.celery.on_worker_start
def begin() -> None:
    def look() -> None:
        while True:
            gevent.sleep(EVERY)
            with Path(os.environ["SOAK_SAMPLES"]).open("a") as file:
                file.write(json.dumps(sample()) + "\n")

    gevent.spawn(look)
