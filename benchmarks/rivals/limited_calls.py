"""The task of `bench_calls`: a call to a server with a quota, and a row; only greenkit's has a limiter."""

from __future__ import annotations

import os
import queue

if os.environ["BENCH_GREENKIT"] == "1":
    import greenkit.auto
import psycopg2
import urllib3
from celery import Celery
from gevent import monkey

import greenkit.postgres
from greenkit import Limiter

app = Celery("calls", broker=os.environ["BENCH_BROKER"])
app.conf.update(task_acks_late=True, task_ignore_result=True, worker_prefetch_multiplier=1)
CONCURRENCY = int(os.environ["BENCH_CONCURRENCY"])
llm = None
if os.environ["BENCH_GREENKIT"] == "1":
    import greenkit.celery

    greenkit.celery.install(app)
    llm = Limiter("llm", requests=os.environ["BENCH_RATE"])
elif monkey.is_module_patched("socket"):
    greenkit.postgres.install()  # without a wait callback psycopg2 stops every task of plain gevent

http = urllib3.PoolManager(maxsize=CONCURRENCY, block=True, retries=False)
kept: queue.LifoQueue = queue.LifoQueue()
for _ in range(20):
    kept.put(None)


class RefusedError(Exception):
    """The server said 429."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"429, Retry-After: {seconds}")
        self.status_code = 429
        self.retry_after = seconds


def ask() -> None:
    """Make the call; raise when it is refused."""
    answer = http.request(
        "POST", os.environ["BENCH_LLM"], json={"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    )
    if answer.status == 429:
        raise RefusedError(float(answer.headers.get("retry-after", 1)))


@app.task(bind=True, max_retries=10)
def call(self, number: int) -> None:
    """Have one call answered, and write its row on a kept connection."""
    if llm is not None:
        for attempt in llm.attempts(deadline=600.0):
            with attempt:
                ask()
    else:
        try:
            ask()
        except RefusedError as error:
            raise self.retry(countdown=error.retry_after, exc=error) from None
    connection = kept.get()
    try:
        if connection is None:
            connection = psycopg2.connect(os.environ["BENCH_POSTGRES"])
            connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO done VALUES (%s)", (number,))
    finally:
        kept.put(connection)
