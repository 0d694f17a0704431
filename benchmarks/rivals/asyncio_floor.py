"""The same calls and INSERTs in one asyncio program without a queue: nothing can be cheaper.

The HTTP client is a keep-alive connection per slot, written out; psycopg 3 inserts on kept connections.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import time
from urllib.parse import urlsplit

import psycopg

URL = urlsplit(os.environ["BENCH_LLM"])
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()
REQUEST = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
    URL.path.encode(),
    len(BODY),
    BODY,
)


async def ask(reader, writer):
    writer.write(REQUEST)
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    json.loads(await reader.readexactly(length))


async def slot(numbers, connections):
    reader, writer = await asyncio.open_connection(URL.hostname, URL.port)
    for number in numbers:
        began = time.time()
        await ask(reader, writer)
        connection = await connections.get()
        await connection.execute("INSERT INTO done VALUES (%s, %s, %s)", (number, began, time.time()))
        connections.put_nowait(connection)
    writer.close()


async def main():
    numbers = iter(range(int(os.environ["BENCH_TASKS"])))
    connections = asyncio.Queue()
    for _ in range(20):
        connections.put_nowait(
            await psycopg.AsyncConnection.connect(os.environ["BENCH_POSTGRES"], autocommit=True)
        )
    before = resource.getrusage(resource.RUSAGE_SELF)
    slots = [slot(numbers, connections) for _ in range(int(os.environ["BENCH_CONCURRENCY"]))]
    await asyncio.gather(*slots)
    after = resource.getrusage(resource.RUSAGE_SELF)
    print(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    while not connections.empty():
        await connections.get_nowait().close()


asyncio.run(main())
