"""SAQ, which sweeps up jobs of a dead worker when their time is over."""

from __future__ import annotations

import asyncio
import os

from saq import Queue

queue = Queue.from_url(os.environ["BENCH_REDIS"])


async def open_job(context):
    from job_async import Job

    context["calls"] = Job()
    await context["calls"].open()


async def close_job(context):
    await context["calls"].close()


async def work(context, *, number):
    await context["calls"].run(number)


settings = {
    "queue": queue,
    "functions": [work],
    "concurrency": int(os.environ["BENCH_CONCURRENCY"]),
    "startup": open_job,
    "shutdown": close_job,
    "timers": {"sweep": 5},
    "dequeue_timeout": 1,
}


async def send_all(numbers):
    await queue.connect()
    waiting = asyncio.Semaphore(100)

    async def send(number):
        async with waiting:
            await queue.enqueue("work", number=number, timeout=20, retries=5, ttl=1)

    await asyncio.gather(*(send(number) for number in numbers))
    await queue.disconnect()


def publish(numbers):
    asyncio.run(send_all(numbers))
