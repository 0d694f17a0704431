"""The same calls as an asyncio program: a keep-alive connection per slot, and no queue."""

import asyncio
from urllib.parse import urlsplit


async def twin(slots, count, url):
    where, body = urlsplit(url), b'{"model": "m", "messages": [{"role": "user", "content": "hello"}]}'
    head = f"POST {where.path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    request = head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body

    async def slot(calls):
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        for _ in calls:
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(answer.lower().split(b"content-length:")[1].split()[0]))
        writer.close()

    calls = iter(range(count))
    await asyncio.gather(*[slot(calls) for _ in range(slots)])
