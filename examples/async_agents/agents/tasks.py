"""Ordinary Celery tasks around the async agent: rows by Django's ORM, words by an async stream."""

from asgiref.sync import async_to_sync
from celery import shared_task
from celery.exceptions import SoftTimeLimitExceeded
from channels.layers import get_channel_layer
from django.conf import settings
from django.db import connection
from openai import AsyncOpenAI

from agents.agent import look_up, never_done, words
from agents.models import Run
from greenkit import Limiter, aio

# One client for all tasks: it keeps its connections, because aio.run() uses one loop.
client = AsyncOpenAI(base_url=settings.LLM_URL, api_key=settings.LLM_KEY, max_retries=0)
llm = Limiter("llm", concurrency=100)


@shared_task
def research(pk):
    run = Run.objects.get(pk=pk)
    connection.close()  # back into the pool of 4: others need it while this one waits for the model
    with llm.permit(timeout=60.0):
        found = aio.run(look_up(client, run.question), timeout=30)
        pieces = list(aio.iterate(words(client, run.question, found), timeout=30))
    run.answer, run.words, run.state = "".join(pieces), len(pieces), "answered"
    run.save()
    tell(run)


@shared_task(soft_time_limit=1.0)
def impatient(pk):
    """The agent takes longer than the task may: its coroutine is cancelled, and the task tidies up."""
    run = Run.objects.get(pk=pk)
    connection.close()
    try:
        aio.run(never_done(client, run.question))
    except SoftTimeLimitExceeded:
        run.state = "gave up"
    run.save()
    tell(run)


def tell(run):
    message = {"type": "run.ended", "pk": run.pk, "state": run.state, "tasks": aio.statistics().tasks}
    async_to_sync(get_channel_layer().group_send)("runs", message)
