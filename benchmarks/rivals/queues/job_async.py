"""The job for queues on asyncio: one call on a kept connection, one INSERT through a pool."""

from __future__ import annotations

import os
import time

import aiohttp
import asyncpg

BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


class Job:
    async def open(self):
        connector = aiohttp.TCPConnector(limit=int(os.environ["BENCH_CONCURRENCY"]))
        self.http = aiohttp.ClientSession(connector=connector)
        self.rows = await asyncpg.create_pool(os.environ["BENCH_POSTGRES"], min_size=20, max_size=20)

    async def close(self):
        await self.http.close()
        await self.rows.close()

    async def run(self, number):
        began = time.time()
        async with self.http.post(os.environ["BENCH_LLM"], json=BODY) as answer:
            answer.raise_for_status()
            await answer.json()
        await self.rows.execute("INSERT INTO done VALUES ($1, $2, $3)", number, began, time.time())
