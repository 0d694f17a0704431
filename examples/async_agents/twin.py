"""The same agent as an asyncio program: no broker, no acknowledgement, no limits of time, all code async."""

import asyncio

from agents.agent import look_up, words
from agents.models import Run
from channels.layers import get_channel_layer
from django.conf import settings
from openai import AsyncOpenAI


async def research(client, gate, pk):
    async with gate:
        run = await Run.objects.aget(pk=pk)
        found = await look_up(client, run.question)
        pieces = [piece async for piece in words(client, run.question, found)]
        run.answer, run.words, run.state = "".join(pieces), len(pieces), "answered"
        await run.asave()
        message = {"type": "run.ended", "pk": run.pk, "state": run.state, "tasks": 0}
        await get_channel_layer().group_send("runs", message)


async def twin(pks):
    async with AsyncOpenAI(base_url=settings.LLM_URL, api_key=settings.LLM_KEY, max_retries=0) as client:
        gate = asyncio.Semaphore(100)
        await asyncio.gather(*(research(client, gate, pk) for pk in pks))
