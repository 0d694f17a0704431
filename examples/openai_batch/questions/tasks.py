"""One question, one call, one row: with the SDK, with the SDK as a stream, and with requests."""

from celery import shared_task
from django.conf import settings
from django.db import connection

import greenkit.http
from greenkit import Limiter
from questions.models import Question

# One of each per process, made when the worker starts: importing the SDK takes a second in which no
# greenlet runs, and its first calls would fork a process each.
llm = Limiter("openai", requests=settings.LLM_REQUESTS, tokens=settings.LLM_TOKENS)
OURS = {
    "limiter": llm,
    "max_wait": 2.0,
}  # a longer 429 is RateLimited: Celery takes the task back for so long
client = greenkit.http.openai_client(
    settings.LLM_CONCURRENCY, base_url=settings.LLM_URL, api_key=settings.LLM_KEY, **OURS
)
http = greenkit.http.session(settings.LLM_CONCURRENCY, **OURS)
http.headers["Authorization"] = f"Bearer {settings.LLM_KEY}"

RESERVED = 60  # tokens a call may cost; what it did cost is settled


def with_sdk(text):
    reply = client.chat.completions.create(model=settings.LLM_MODEL, messages=asking(text))
    return reply.choices[0].message.content, reply.usage.total_tokens


def with_stream(text):
    options = {"stream": True, "stream_options": {"include_usage": True}}
    pieces, tokens = [], 0
    # `with`: left early, by an error or a time limit, the connection goes back at once.
    with client.chat.completions.create(model=settings.LLM_MODEL, messages=asking(text), **options) as stream:
        for event in stream:
            pieces += [choice.delta.content or "" for choice in event.choices]
            tokens = event.usage.total_tokens if event.usage else tokens
    return "".join(pieces), tokens


def with_requests(text):
    body = {"model": settings.LLM_MODEL, "messages": asking(text)}
    response = http.post(f"{settings.LLM_URL}/chat/completions", json=body)
    response.raise_for_status()
    reply = response.json()
    return reply["choices"][0]["message"]["content"], reply["usage"]["total_tokens"]


def asking(text):
    return [{"role": "user", "content": text}]


WAYS = {"sdk": with_sdk, "stream": with_stream, "requests": with_requests}


@shared_task
def answer(pk, way):
    question = Question.objects.get(pk=pk)
    if question.answer:
        return  # delivered twice: paid for already
    connection.close()  # back into the pool of 4: others need it while this one waits for the model
    # Requests and tokens in one go, in the order they were asked for.
    with llm.permit(tokens=RESERVED) as permit:
        question.answer, question.tokens = WAYS[way](question.text)
        permit.settle(tokens=question.tokens)
    question.save(update_fields=["answer", "tokens"])
