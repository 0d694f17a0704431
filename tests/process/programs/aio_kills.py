"""A thousand kills and timeouts at random points of sync and async calls: nothing stays behind."""

import greenkit.auto

import asyncio
import gc
import json
import random
import socket
import threading
import time
from pathlib import Path

import gevent
from asgiref.sync import async_to_sync, sync_to_async

from greenkit import aio
from greenkit.errors import WaitTimeout

rng = random.Random(7)
inside = set()  # calls that have begun and not ended


def descriptors_open():
    return len(list(Path("/proc/self/fd").iterdir()))


def serve(connection):
    with connection:
        while connection.recv(100):
            pass


def accept(server):
    while True:
        gevent.spawn(serve, server.accept()[0])


server = socket.create_server(("127.0.0.1", 0))
address = server.getsockname()
accepting = gevent.spawn(accept, server)


class Inside:
    """Note that a call is under way, and that its end was reached."""

    def __enter__(self):
        inside.add(self)

    def __exit__(self, *_):
        inside.discard(self)


def sync_talk():
    with Inside(), socket.create_connection(address) as connection:
        connection.sendall(b"x")
        time.sleep(0.02)
        connection.recv(1)


async def talk():
    with Inside():
        reader, writer = await asyncio.open_connection(*address)
        try:
            writer.write(b"x")
            await asyncio.gather(asyncio.sleep(0.02), reader.read(1))
        finally:
            writer.close()


async def generate():
    with Inside():
        while True:
            yield await asyncio.sleep(0.005)


async def sync_inside():
    with Inside():
        await sync_to_async(sync_talk)()


def consume():
    for _ in aio.iterate(generate()):
        pass


WAYS = (
    sync_talk,
    lambda: asyncio.run(talk()),
    lambda: aio.run(talk()),
    lambda: async_to_sync(talk)(),
    lambda: aio.run(sync_inside()),
    lambda: async_to_sync(sync_inside)(),
    consume,
    lambda: aio.gather(talk(), talk()),
)
ENDED = {"killed": 0, "timeout": 0, "aio timeout": 0}


def under_a_timeout(way, seconds):
    try:
        with gevent.Timeout(seconds):
            way()
    except gevent.Timeout:
        ENDED["timeout"] += 1


def under_a_timeout_of_ours(seconds):
    try:
        aio.run(talk(), timeout=seconds)
    except WaitTimeout:
        ENDED["aio timeout"] += 1


def a_round(number):
    jobs = []
    for n in range(100):
        way, seconds = WAYS[n % len(WAYS)], rng.uniform(0, 0.04)
        if (n + number) % 3 == 0:
            jobs.append(gevent.spawn(under_a_timeout, way, seconds))
        elif (n + number) % 10 == 0:
            jobs.append(gevent.spawn(under_a_timeout_of_ours, seconds))
        else:
            jobs.append(gevent.spawn(way))
            gevent.spawn_later(seconds, jobs[-1].kill, block=False)
    gevent.joinall(jobs, timeout=20)
    assert all(job.ready() for job in jobs)
    ENDED["killed"] += sum(isinstance(job.value, gevent.GreenletExit) for job in jobs)


async def nothing():
    await asyncio.sleep(0)


aio.run(nothing())
asyncio.run(nothing())
before = descriptors_open()
for number in range(12):
    a_round(number)
accepting.kill()
server.close()


def left():
    gc.collect()
    return {
        "inside": len(inside),
        "tasks": aio.statistics().tasks,
        "abandoned": aio.statistics().abandoned,
        "descriptors": max(0, descriptors_open() - before + 1),  # the server's own is closed
        "threads": threading.active_count() - 1,
        "greenlets": sum(
            isinstance(thing, gevent.Greenlet) and not thing.ready() for thing in gc.get_objects()
        ),
    }


with gevent.Timeout(5, False):  # sockets' other ends, and executors, end a moment later
    while left() != dict.fromkeys(left(), 0) | {"greenlets": 1}:  # the loop's
        gevent.sleep(0.05)
print(json.dumps({"ended": ENDED, "left": left()}))
