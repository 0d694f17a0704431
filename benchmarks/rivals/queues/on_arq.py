"""arq, which runs a job again when the key of its dead worker has gone."""

from __future__ import annotations

import asyncio
import os

from arq import create_pool
from arq.connections import RedisSettings

REDIS = RedisSettings.from_dsn(os.environ["BENCH_REDIS"])


async def open_job(context):
    from job_async import Job

    context["calls"] = Job()
    await context["calls"].open()


async def close_job(context):
    await context["calls"].close()


async def work(context, number):
    await context["calls"].run(number)


class WorkerSettings:
    redis_settings = REDIS
    functions = (work,)
    max_jobs = int(os.environ["BENCH_CONCURRENCY"])
    queue_read_limit = 2 * max_jobs
    keep_result = 0
    job_timeout = 10
    poll_delay = 0.05
    on_startup = open_job
    on_shutdown = close_job


async def send_all(numbers):
    pool = await create_pool(REDIS)
    waiting = asyncio.Semaphore(20)

    async def send(number):
        async with waiting:
            await pool.enqueue_job("work", number)

    await asyncio.gather(*(send(number) for number in numbers))
    await pool.aclose()


def publish(numbers):
    asyncio.run(send_all(numbers))
