"""dramatiq on gevent, which returns the messages of a worker that sends no heartbeat."""

from __future__ import annotations

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker

PUBLISHING = os.environ["BENCH_PUBLISH"] == "1"
# By default one command in a thousand looks for dead workers: an idle queue would wait for minutes.
broker = RedisBroker(url=os.environ["BENCH_REDIS"], heartbeat_timeout=20_000, maintenance_chance=20_000)
dramatiq.set_broker(broker)

if not PUBLISHING:
    from psycogreen.gevent import patch_psycopg

    patch_psycopg()
    from job_sync import Job

    job = Job()


@dramatiq.actor(actor_name="work", max_retries=3)
def work(number):
    job.run(number)


def publish(numbers):
    for number in numbers:
        work.send(number)
