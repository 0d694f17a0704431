"""An app whose tasks do what metrics count: permits and calls that are refused, queries, acknowledgements."""

import greenkit.auto

# isort: split
import os

import psycopg2
from celery import Celery

import greenkit.celery
import greenkit.http
from greenkit import Limiter, postgres

app = Celery("metered_app", broker=os.environ["TEST_BROKER"])
app.conf.update(task_acks_late=True, task_ignore_result=True, worker_prefetch_multiplier=1)
greenkit.celery.install(app)
# The server's quota is half of it, so that calls are refused.
llm = Limiter("llm", requests="80/s burst 5", concurrency=16)
pool = postgres.ConnectionPool(lambda: psycopg2.connect(os.environ["TEST_DSN"]), max_size=3, name="shop")
http = greenkit.http.session(20)


@app.task
def work(number):
    for attempt in llm.attempts(deadline=90.0):
        with attempt:
            reply = http.post(
                os.environ["TEST_LLM"], json={"model": "m", "messages": [{"role": "user", "content": "hi"}]}
            )
            reply.raise_for_status()
    with pool.connection() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(0.02)")
