"""Celery, with greenkit (`BENCH_GREENKIT=1`) or on threads."""

from __future__ import annotations

import os

GREEN = os.environ["BENCH_GREENKIT"] == "1"
PUBLISHING = os.environ["BENCH_PUBLISH"] == "1"
if GREEN and not PUBLISHING:
    import greenkit.auto
from celery import Celery

app = Celery("bench", broker=os.environ["BENCH_REDIS"])
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=4,
    worker_hijack_root_logger=False,
    broker_transport_options={"visibility_timeout": 20},
)
if not PUBLISHING:
    from job_sync import Job

    if GREEN:
        import greenkit.celery
        import greenkit.http

        greenkit.celery.install(app)
        job = Job(greenkit.http.session(int(os.environ["BENCH_CONCURRENCY"])))
    else:
        job = Job()


@app.task(name="work")
def work(number):
    job.run(number)


def publish(numbers):
    if GREEN:
        from greenkit.celery import publish_many

        publish_many(work, [(number,) for number in numbers])
    else:
        with app.producer_or_acquire() as producer:
            for number in numbers:
                work.apply_async((number,), producer=producer)
