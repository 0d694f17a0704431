"""The app the worker tests run: tasks that note in Redis what really happened to them."""

from __future__ import annotations

import asyncio
import atexit
import importlib
import os
import sys
import time
from pathlib import Path
from uuid import uuid4

import gevent
import redis
import requests
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded
from celery.signals import worker_shutting_down

from greenkit.errors import WouldWait
from greenkit.limits import Limiter

app = Celery("celery_app", broker=os.environ["TEST_BROKER"], backend=os.environ["TEST_BACKEND"])
app.conf.update(
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=1,
    task_acks_late=True,
    broker_transport_options={
        "polling_interval": 1, **eval(os.environ.get("TEST_TRANSPORT", "{}"))
    } if "filesystem" not in os.environ["TEST_BROKER"] else {
        "data_folder_in": os.environ["TEST_FOLDER"],
        "data_folder_out": os.environ["TEST_FOLDER"],
        "control_folder": os.environ["TEST_FOLDER"],
    },
)  # fmt: skip
app.conf.update(eval(os.environ.get("TEST_CONF", "{}")))
if "TEST_STOCK" not in os.environ:
    import greenkit.celery
    import greenkit.http
    import greenkit.postgres

    if "TEST_DRIVERS" in os.environ:
        greenkit.postgres.install()
    greenkit.celery.install(app, **eval(os.environ.get("TEST_OPTIONS", "{}")))
    if "TEST_LOOKS" in os.environ:  # what a worker draws at its start; the pauses of real life take a minute
        from greenkit.celery import _recycle

        _recycle._YOUNGEST = _recycle._BETWEEN_LOOKS = 0.0
        _recycle._LOOKS_IN_A_ROW = (int(os.environ["TEST_LOOKS"]),) * 2
notes = redis.Redis.from_url(os.environ["TEST_NOTES"], max_connections=1000)


@worker_shutting_down.connect
def farewell(**_: object) -> None:
    if "TEST_FAREWELL" in os.environ:
        notes.set("farewell", "said")


@atexit.register
def at_exit() -> None:
    Path(os.environ["TEST_FOLDER"], "exited").touch()


@app.task
def nap(seconds: float) -> str:
    time.sleep(seconds)
    return "done"


# redis-py says a command again whose answer was lost with its connection; a run counts once all the same.
COUNT_ONCE = """
if redis.call("SADD", KEYS[1], ARGV[1]) == 1 then redis.call("HINCRBY", KEYS[2], ARGV[2], 1) end
"""


@app.task(ignore_result=True)
def count(number: int, seconds: float) -> None:
    notes.eval(COUNT_ONCE, 2, "run-ids", "runs", uuid4().hex, str(number))
    time.sleep(0.0 if notes.exists("short") else seconds)
    notes.incr("ended")


held: list[bytearray] = []


@app.task(ignore_result=True)
def hoard(number: int, mib: int) -> None:
    """Take memory and never give it back."""
    held.append(bytearray(b"x") * (mib << 20))
    count(number, 0.0)


@app.task(ignore_result=True)
def hold(number: int, key: str) -> None:
    """Run until the test sets `key`."""
    notes.eval(COUNT_ONCE, 2, "run-ids", "runs", uuid4().hex, str(number))
    while not notes.exists(key):
        time.sleep(0.05)
    notes.incr("ended")


@app.task(ignore_result=True)
def stamp(number: int, seconds: float) -> None:
    """Note it where no broker is needed; on the second run the name is taken."""
    with Path(os.environ["TEST_FOLDER"], f"stamp-{number}").open("x"):
        time.sleep(seconds)


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


@app.task
def child(how: str) -> str:
    """Start a greenlet and leave it."""
    greenlet = gevent.spawn(time.sleep, 0.5)
    greenlet.link(lambda _: notes.set("child", "ended"))
    if how == "named":
        return gevent.spawn(greenkit.celery.current_task_id).get() or ""
    return "left"


@app.task
def wrong_status() -> None:
    """Meet a 429 as `requests` reports it, twice."""
    if notes.incr("asked") < 3:
        answer = requests.Response()
        answer.status_code, answer.headers["Retry-After"] = 429, "0.1"
        answer.raise_for_status()


if "TEST_STOCK" not in os.environ:
    quota = Limiter("quota", requests="4/s burst 1", tokens="1000/s burst 1000")

    @app.task(limits=quota, cost={"tokens": len}, ignore_result=True)
    def paid(text: str) -> None:
        """Note when it ran."""
        permit = greenkit.celery.current_permit()
        notes.rpush("paid", f"{time.time()} {permit.costs['tokens'] if permit else None}")

    @greenkit.celery.on_worker_start
    def open_it() -> None:
        notes.rpush("life", "opened")

    @greenkit.celery.on_worker_stop
    def close_it() -> None:
        notes.rpush("life", "closed")


@app.task(ignore_result=True)
def tick() -> None:
    """Count until somebody says stop."""
    while not notes.exists("stop"):
        notes.incr("ticks")
        time.sleep(0.02)


@app.task
def length(text: str) -> int:
    return len(text)


@app.task
def hog(seconds: float) -> str:
    """Hold the thread, and with it the heartbeats of the broker's connection."""
    notes.rpush("hogs", time.time())
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return "done"


@app.task
def who() -> int:
    return os.getpid()


@app.task(time_limit=30, soft_time_limit=20)
def query(seconds: float, driver: str = "psycopg2") -> str:
    """Wait in a query, which must not outlive the task."""
    connection = importlib.import_module(driver).connect(os.environ["TEST_POSTGRES"])
    connection.cursor().execute("SELECT pg_sleep(%s)", (seconds,))
    return "waited"


@app.task
def fetch(url: str, how: str) -> str:
    """Wait for an answer that never ends."""
    get = requests.get if how == "requests" else greenkit.http.session(4).get
    return get(url, timeout=60).text
