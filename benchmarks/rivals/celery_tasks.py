"""The tasks every pool of `bench_celery` runs: the same code, tuned for all of them."""

from __future__ import annotations

import os
import queue
import time

if os.environ["BENCH_GREENKIT"] == "1":
    import greenkit.auto
import psycopg2
import urllib3
from celery import Celery
from gevent import monkey

import greenkit.postgres

app = Celery("bench", broker=os.environ["BENCH_BROKER"])
app.conf.update(
    task_acks_late=os.environ["BENCH_ACKS"] == "late",
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=int(os.environ["BENCH_PREFETCH"]),
    worker_hijack_root_logger=False,
)
if os.environ["BENCH_GREENKIT"] == "1":
    import greenkit.celery

    greenkit.celery.install(app)
elif monkey.is_module_patched("socket"):
    greenkit.postgres.install()  # without a wait callback psycopg2 stops every task of plain gevent

LLM = os.environ["BENCH_LLM"]
CONCURRENCY = int(os.environ["BENCH_CONCURRENCY"])
# Below requests, which costs more than all the rest of a task: what is compared is the worker.
http = urllib3.PoolManager(maxsize=CONCURRENCY, block=True)
kept: queue.LifoQueue = queue.LifoQueue()
for _ in range(min(CONCURRENCY, 20)):
    kept.put(None)


@app.task
def work(number: int) -> None:
    """One LLM call, one INSERT on a kept connection."""
    began = time.time()
    http.request("POST", LLM, json={"model": "m", "messages": [{"role": "user", "content": "hi"}]})
    connection = kept.get()
    try:
        if connection is None:
            connection = psycopg2.connect(os.environ["BENCH_POSTGRES"])
            connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO done VALUES (%s, %s, %s)", (number, began, time.time()))
    finally:
        kept.put(connection)


@app.task
def nothing() -> None:
    """Do nothing."""


@app.task
def hold(seconds: float) -> None:
    """Wait."""
    time.sleep(seconds)
