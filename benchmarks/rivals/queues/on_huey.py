"""huey on greenlets, which takes a task out of its list before it runs."""

from __future__ import annotations

import os

PUBLISHING = os.environ["BENCH_PUBLISH"] == "1"
if not PUBLISHING:
    from gevent import monkey

    monkey.patch_all()
    from psycogreen.gevent import patch_psycopg

    patch_psycopg()

from huey import RedisHuey
from redis import ConnectionPool

# Each of its workers waits on a connection of its own.
connections = ConnectionPool.from_url(os.environ["BENCH_REDIS"], max_connections=1_000)
huey = RedisHuey("bench", connection_pool=connections, results=False)

if not PUBLISHING:
    from job_sync import Job

    job = Job()


@huey.task(name="work")
def work(number):
    job.run(number)


def publish(numbers):
    for number in numbers:
        work(number)
