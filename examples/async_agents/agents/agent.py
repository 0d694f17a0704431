"""What the agent does, as async code: it knows nothing of greenlets, Celery or Django."""

import asyncio

MODEL = "mock-small"


async def ask(client, text):
    reply = await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": text}])
    return reply.choices[0].message.content


async def look_up(client, question):
    """Ask two tools at once, as agents do."""
    return await asyncio.gather(*(ask(client, f"{tool}: {question}") for tool in ("search", "files")))


async def never_done(client, question):
    """Go in circles, as agents do."""
    while True:
        await ask(client, question)


async def words(client, question, found):
    prompt = [{"role": "user", "content": f"{question} {len(found)} sources"}]
    async with await client.chat.completions.create(model=MODEL, messages=prompt, stream=True) as stream:
        async for chunk in stream:
            for choice in chunk.choices:
                if choice.delta.content:
                    yield choice.delta.content
