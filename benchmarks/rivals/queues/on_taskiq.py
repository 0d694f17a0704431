"""taskiq on Redis streams, which it acknowledges when a task has ended."""

from __future__ import annotations

import asyncio
import os

from taskiq import TaskiqEvents
from taskiq_redis import RedisStreamBroker

broker = RedisStreamBroker(
    os.environ["BENCH_REDIS"],
    idle_timeout=20_000,
    xread_count=200,
    unacknowledged_batch_size=200,
    unacknowledged_lock_timeout=10.0,  # else a worker killed while it claims leaves it locked for good
)


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def open_job(state):
    from job_async import Job

    state.job = broker.job = Job()
    await state.job.open()


@broker.on_event(TaskiqEvents.WORKER_SHUTDOWN)
async def close_job(state):
    await state.job.close()


@broker.task(task_name="work")
async def work(number: int) -> None:
    await broker.job.run(number)


async def send_all(numbers):
    await broker.startup()
    waiting = asyncio.Semaphore(100)

    async def send(number):
        async with waiting:
            await work.kiq(number)

    await asyncio.gather(*(send(number) for number in numbers))
    await broker.shutdown()


def publish(numbers):
    asyncio.run(send_all(numbers))
