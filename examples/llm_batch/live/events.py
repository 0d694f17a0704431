import json
from pathlib import Path

from batches.models import Answer, Batch
from django.conf import settings
from django.db import connections
from gevent.event import Event

EVERY = 0.5  # seconds between two events
NEWEST = 20  # answers in one event at most
CLOSING = Event()  # set when the server stops: streams end by themselves


def stream(last_id):
    """Yield server-sent events, each with what is new since the one before, until the server stops.

    Args:
        last_id: The id of the event a browser saw last, "<answer>-<sample>"; anything else begins anew.
    """
    answer, sample = resumed(last_id)
    while not CLOSING.is_set():
        found = news(answer, sample)
        answer = max([answer, *(row["id"] for row in found["answers"])])
        sample = max([sample, *(taken["number"] for taken in found["samples"])])
        # No database connection is held here: a browser may be slow, and a page may stay open for days.
        # A browser that has gone makes the write fail, and the server closes this generator.
        yield f"id: {answer}-{sample}\ndata: {json.dumps(found)}\n\n"
        CLOSING.wait(EVERY)


def resumed(last_id):
    answer, _, sample = last_id.partition("-")
    return (int(answer), int(sample)) if answer.isdecimal() and sample.isdecimal() else (0, 0)


def news(answer, sample):
    """Return the newest batch's progress, the answers after `answer`, the numbers after `sample`."""
    try:
        batch = Batch.objects.defer("prompts").first()
        rows = Answer.objects.filter(pk__gt=answer).order_by("-pk")[:NEWEST]
        shown = list(rows.values("id", "batch_id", "position", "text", "attempts", "waited", "latency"))
        progress = batch and told(batch)
    finally:
        connections.close_all()  # back into the pool until the next event
    numbers = measured()
    new = [taken for taken in numbers["samples"] if taken["number"] > sample]
    return {"batch": progress, "answers": shown[::-1], "quota": numbers["quota"], "samples": new}


def told(batch):
    now = batch.progress()
    ended = None if now["left"] else batch.created_at.timestamp() + now["seconds"]
    counts = {name: now[name] for name in ("answered", "retries", "per_second", "eta_seconds")}
    return {
        "id": batch.pk,
        "total": batch.total,
        "began": batch.created_at.timestamp(),
        "ended": ended,
    } | counts


def measured():
    """Return what the demo's driver measured in other processes: samples, and the quota."""
    try:
        return json.loads(Path(settings.LIVE_NUMBERS).read_text(encoding="utf-8"))
    except OSError:  # no driver beside us, or its first sample is still to come
        return {"quota": None, "samples": []}
