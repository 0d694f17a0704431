import time
from contextlib import suppress

from celery import shared_task
from django.conf import settings
from django.db import IntegrityError

import greenkit.http
from batches.models import Answer
from greenkit import Limiter
from greenkit.celery import publish_many

# One of each per process: the quota is the provider's, the connections are the pool's.
llm = Limiter("llm", requests=settings.LLM_REQUESTS, tokens=settings.LLM_TOKENS)
http = greenkit.http.session(settings.LLM_CONCURRENCY)

TOKENS_PER_ANSWER = 50  # reserved before the call; what was really used is settled after it


def send(batch):
    """Send a task per prompt, hundreds in one write."""
    calls = [(batch.pk, position, prompt) for position, prompt in enumerate(batch.prompts)]
    # What logs and events show of the arguments: prompts are nobody's business there.
    publish_many(ask, calls, argsrepr=f"({batch.pk}, ...)")


@shared_task(bind=True)
def ask(self, batch_id, position, prompt):
    """Have one prompt answered and write the answer: one call, one row."""
    again = self.request.delivery_info.get("redelivered")
    if again and Answer.objects.filter(batch=batch_id, position=position).exists():
        return  # a worker died between its row and its ack: do not pay for the answer twice
    waited = 0.0
    for attempt in llm.attempts(tokens=TOKENS_PER_ANSWER, deadline=settings.LLM_DEADLINE):
        with attempt as permit:
            waited += permit.waited
            began = time.monotonic()
            reply = complete(prompt, key=f"batch-{batch_id}-{position}")
            permit.settle(tokens=reply["usage"]["total_tokens"])
    answer = Answer(
        batch_id=batch_id,
        position=position,
        text=reply["choices"][0]["message"]["content"],
        tokens=reply["usage"]["total_tokens"],
        attempts=attempt.number,
        waited=waited,
        latency=time.monotonic() - began,
    )
    with suppress(IntegrityError):  # delivered twice, and the other was faster: one row stays one row
        answer.save(force_insert=True)  # one INSERT in autocommit, nothing around it


def complete(prompt, *, key):
    """Call the model; the key lets a provider that knows the header answer a repeat from memory."""
    response = http.post(
        f"{settings.LLM_URL}/v1/chat/completions",
        json={"model": settings.LLM_MODEL, "messages": [{"role": "user", "content": prompt}]},
        headers={"Idempotency-Key": key},
    )
    response.raise_for_status()  # a 429 becomes another attempt, and a pause for everybody
    return response.json()
