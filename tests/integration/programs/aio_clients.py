"""Async clients from greenlets, over the long-lived loop and over `asyncio.run()`: `aio_clients.py URL`."""

import greenkit.auto

import asyncio
import json
import sys

import anyio
import gevent
import httpx
from openai import AsyncOpenAI

from greenkit import aio

URL = sys.argv[1]
BODY = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
seen = {}


def all_of(count, function):
    jobs = [gevent.spawn(function) for _ in range(count)]
    gevent.joinall(jobs)
    return [job.get() for job in jobs]


shared = httpx.AsyncClient(base_url=URL, headers={"Authorization": "Bearer key"})
sdk = AsyncOpenAI(base_url=URL + "/v1", api_key="key", max_retries=0)


async def post(client):
    answer = await client.post("/v1/chat/completions", json=BODY)
    return answer.status_code


async def post_alone():
    async with httpx.AsyncClient(base_url=URL, headers={"Authorization": "Bearer key"}) as client:
        return await post(client)


async def ask():
    reply = await sdk.chat.completions.create(model="m", messages=BODY["messages"])
    return bool(reply.choices[0].message.content)


async def stream():
    chunks = await sdk.chat.completions.create(model="m", messages=BODY["messages"], stream=True)
    async for chunk in chunks:
        yield chunk


def consume():
    return sum(1 for _ in aio.iterate(stream())) > 1


async def with_anyio():
    done = []

    async def work(n):
        await anyio.sleep(0.01)
        done.append(n)

    with anyio.move_on_after(5) as scope:
        async with anyio.create_task_group() as group:
            for n in range(5):
                group.start_soon(work, n)
    with anyio.move_on_after(0.01) as late:
        await anyio.sleep(5)
    in_thread = await anyio.to_thread.run_sync(lambda: 7)
    return [sorted(done), scope.cancelled_caught, late.cancelled_caught, in_thread]


def killed():
    """A client survives callers that are killed in the middle of a call."""
    jobs = [gevent.spawn(aio.run, ask()) for _ in range(10)]
    gevent.sleep(0.02)
    gevent.killall(jobs, timeout=10)
    return aio.run(ask())


seen["httpx, shared"] = set(all_of(30, lambda: aio.run(post(shared)))) == {200}
seen["httpx, asyncio.run"] = set(all_of(10, lambda: asyncio.run(post_alone()))) == {200}
seen["openai"] = all(all_of(30, lambda: aio.run(ask())))
seen["openai, streamed"] = all(all_of(10, consume))
seen["openai, gathered"] = all(aio.gather(*(ask() for _ in range(20)), limit=5))
seen["openai, after kills"] = killed()
seen["anyio"] = all_of(10, lambda: aio.run(with_anyio())) == [[[0, 1, 2, 3, 4], False, True, 7]] * 10
seen["anyio.run"] = all_of(5, lambda: anyio.run(with_anyio)) == [[[0, 1, 2, 3, 4], False, True, 7]] * 5
aio.run(shared.aclose())
aio.run(sdk.close())
aio.close()
print(json.dumps(seen))
