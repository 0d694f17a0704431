"""aiohttp, asyncpg and Channels' layers from greenlets: `aio_servers.py LLM REDIS POSTGRES`."""

import greenkit.auto

import asyncio
import gc
import json
import random
import sys
import threading
from pathlib import Path

import aiohttp
import asyncpg
import gevent
import redis
from asgiref.sync import async_to_sync
from channels.layers import InMemoryChannelLayer
from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer

from greenkit import aio

LLM, REDIS, POSTGRES = sys.argv[1:]
BODY = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
CHAT = f"{LLM}/v1/chat/completions"
KEY = {"Authorization": "Bearer key"}
seen = {}


def all_of(count, function, *args):
    jobs = [gevent.spawn(function, *args) for _ in range(count)]
    gevent.joinall(jobs)
    return [job.get() for job in jobs]


def kill_at_random(count, function, within):
    """Kill `count` greenlets at random points of what they do; return how many had not ended before."""
    rng = random.Random(11)
    jobs = [gevent.spawn(function) for _ in range(count)]
    for job in jobs:
        gevent.spawn_later(rng.uniform(0, within), job.kill, block=False)
    gevent.joinall(jobs, timeout=30)
    assert all(job.ready() for job in jobs)
    return sum(isinstance(job.value, gevent.GreenletExit) for job in jobs)


def descriptors_open():
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


# -- aiohttp ---------------------------------------------------------------------------------------


async def make_session():
    return aiohttp.ClientSession(headers=KEY)


async def post(session):
    async with session.post(CHAT, json=BODY) as answer:
        await answer.read()
        return answer.status


async def post_alone():
    async with aiohttp.ClientSession(headers=KEY) as session:
        return await post(session)


async def lines(session):
    async with session.post(CHAT, json={**BODY, "stream": True}) as answer:
        async for line in answer.content:
            yield line


def with_aiohttp():
    before = descriptors_open()
    session = aio.run(make_session())
    seen["aiohttp, shared"] = set(all_of(30, lambda: aio.run(post(session)))) == {200}
    seen["aiohttp, asyncio.run"] = set(all_of(10, lambda: asyncio.run(post_alone()))) == {200}
    seen["aiohttp, async_to_sync"] = set(all_of(10, lambda: async_to_sync(post_alone)())) == {200}
    seen["aiohttp, streamed"] = all(
        all_of(10, lambda: b"data: [DONE]\n" in list(aio.iterate(lines(session))))
    )
    landed = kill_at_random(40, lambda: aio.run(post(session)), 0.06)
    landed += kill_at_random(20, lambda: asyncio.run(post_alone()), 0.06)
    seen["aiohttp, after kills"] = landed > 20 and aio.run(post(session)) == 200
    aio.run(session.close())
    gevent.sleep(0.1)
    seen["aiohttp, descriptors"] = descriptors_open() <= before + 1  # the loop's own wake-up


# -- asyncpg ---------------------------------------------------------------------------------------


async def insert(pool, number):
    async with pool.acquire() as conn, conn.transaction():
        await conn.execute("insert into noted values ($1)", number)
        await conn.execute("select pg_sleep(0.01)")
        return await conn.fetchval("select count(*) from noted where n = $1", number)


async def query_alone():
    conn = await asyncpg.connect(POSTGRES)
    try:
        return await conn.fetchval("select 40 + 2")
    finally:
        await conn.close()


async def rows(pool):
    async with pool.acquire() as conn, conn.transaction():
        async for row in conn.cursor("select generate_series(1, 200)"):
            yield row[0]


async def backends():
    conn = await asyncpg.connect(POSTGRES)
    try:
        return await conn.fetchval(
            "select count(*) from pg_stat_activity"
            " where backend_type = 'client backend' and pid <> pg_backend_pid()"
        )
    finally:
        await conn.close()


def with_asyncpg():
    async def make_pool():
        return await asyncpg.create_pool(POSTGRES, min_size=1, max_size=5)

    pool = aio.run(make_pool())
    aio.run(pool.execute("create table noted (n int)"))
    numbers = iter(range(1000))
    seen["asyncpg, pool"] = all_of(40, lambda: aio.run(insert(pool, next(numbers)))) == [1] * 40
    seen["asyncpg, asyncio.run"] = all_of(10, lambda: asyncio.run(query_alone())) == [42] * 10
    seen["asyncpg, cursor"] = all_of(5, lambda: sum(aio.iterate(rows(pool)))) == [20100] * 5
    done = aio.run(pool.fetchval("select count(*) from noted"))
    landed = kill_at_random(40, lambda: aio.run(insert(pool, next(numbers))), 0.08)
    whole = aio.run(pool.fetchval("select count(*) from noted"))
    seen["asyncpg, after kills"] = (
        landed > 10
        and whole - done <= 40 - landed + 5  # a commit on its way may still be done
        and all_of(10, lambda: aio.run(insert(pool, next(numbers)))) == [1] * 10
        and pool.get_size() <= 5
    )
    aio.run(pool.close())
    seen["asyncpg, nothing left"] = aio.run(backends()) == 0


# -- Channels --------------------------------------------------------------------------------------


async def receive(layer, channel, count):
    return sorted([(await layer.receive(channel))["n"] for _ in range(count)])


def listening(layer, count):
    """Join a group on the long-lived loop; return the greenlet that takes `count` messages from it."""

    async def join():
        channel = await layer.new_channel()
        await layer.group_add("crowd", channel)
        return channel

    channel = aio.run(join())
    taker = gevent.spawn(aio.run, receive(layer, channel, count), timeout=20)
    gevent.sleep(0.05)
    return taker


async def close(layer):
    await (layer.close_pools() if isinstance(layer, RedisChannelLayer) else layer.flush())


def with_layer(name, layer):
    numbers = iter(range(1000))

    def message():
        return {"type": "said", "n": next(numbers)}

    taker = listening(layer, 90)
    all_of(40, lambda: async_to_sync(layer.group_send)("crowd", message()))
    all_of(20, lambda: asyncio.run(layer.group_send("crowd", message())))
    aio.gather(*(layer.group_send("crowd", message()) for _ in range(30)))
    seen[f"{name}, group_send"] = taker.get() == list(range(90))
    landed = kill_at_random(60, lambda: async_to_sync(layer.group_send)("other", message()), 0.02)
    numbers = iter(range(1000))
    taker = listening(layer, 1)
    aio.run(layer.group_send("crowd", message()))
    seen[f"{name}, after {'kills' if landed > 5 else 'too few kills'}"] = taker.get() == [0]
    aio.run(close(layer))


with_aiohttp()
with_asyncpg()
with_layer("in memory", InMemoryChannelLayer(capacity=1000))
with_layer("redis", RedisChannelLayer(hosts=[REDIS], capacity=1000))
with_layer("redis pubsub", RedisPubSubChannelLayer(hosts=[REDIS]))
with redis.Redis.from_url(REDIS) as client:  # what each send opened went with its loop
    seen["redis, connections"] = len(client.client_list()) == 1
seen["nothing left"] = aio.statistics().tasks == 0 and aio.statistics().abandoned == 0
aio.close()
seen["threads"] = threading.active_count() <= 2
print(json.dumps(seen))
