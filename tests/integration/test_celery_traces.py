"""Sentry, OpenTelemetry, logging and structlog in a real worker: each record says whose it is.

Eight tasks at once, each sent by another and run three times: its own retry, one of greenkit's, an error.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.celery_worker import Worker

pytestmark = pytest.mark.filterwarnings("ignore")
TASKS = range(8)
RUNS = range(3)
WAYS = ("own", "greenlet", "pool", "coroutine")


def run(worker: Worker, tracer: str) -> None:
    """Have each task done, and the worker stopped, so that everything is written."""
    with worker.running("-P", "gevent", "-c", "20", app="traced_app", TEST_TRACER=tracer):
        for number in TASKS:
            worker.app.send_task("traced_app.begin", (number,))
        worker.wait(lambda: worker.text().count("ValueError: error of") >= len(TASKS), 90)
        assert worker.end() == 0


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_sentry_keeps_a_trace_over_children_and_retries(worker: Worker, tmp_path: Path) -> None:
    """Each run is a transaction in the trace of the task that sent it, its spans lie in it, its error too."""
    run(worker, "sentry")
    told = lines(tmp_path, "sentry")
    transactions = [one for one in told if one.get("type") == "transaction"]
    errors = [one for one in told if one.get("exception")]
    roots = {
        one["contexts"]["trace"]["trace_id"]
        for one in transactions
        if one["transaction"] == "traced_app.begin"
    }
    runs = [one for one in transactions if one["transaction"] == "traced_app.work"]
    assert len(roots) == len(TASKS)
    assert len(runs) == len(TASKS) * len(RUNS)
    whose: dict[str, str] = {}
    seen: set[str] = set()
    for one in runs:
        trace = one["contexts"]["trace"]
        spans = {span["span_id"]: span for span in one["spans"]}
        for span in one["spans"]:
            assert span["trace_id"] == trace["trace_id"]
            assert span["parent_span_id"] in {trace["span_id"], *spans}
            name = span.get("description") or ""
            if name.startswith(WAYS):
                seen.add(name)
                assert whose.setdefault(trace["trace_id"], name.split()[-1]) == name.split()[-1]
        assert trace["trace_id"] in roots
    assert seen == {f"{way} {at} {number}" for way in WAYS for at in RUNS for number in TASKS}
    assert sorted(one["exception"]["values"][-1]["value"] for one in errors) == [
        f"error of {number}" for number in TASKS
    ]
    for one in errors:
        number = one["exception"]["values"][-1]["value"].split()[-1]
        assert whose[one["contexts"]["trace"]["trace_id"]] == number


def test_opentelemetry_keeps_a_trace_over_children_and_retries(worker: Worker, tmp_path: Path) -> None:
    """What a run starts has its span for an ancestor; each run is in the trace of the task that sent it."""
    run(worker, "otel")
    spans = {one["context"]["span_id"]: one for one in lines(tmp_path, "otel")}

    def ancestors(span: dict[str, Any]) -> list[dict[str, Any]]:
        found = []
        while span["parent_id"] in spans:
            span = spans[span["parent_id"]]
            found.append(span)
        return found

    roots = {one["context"]["trace_id"] for one in spans.values() if one["name"] == "run/traced_app.begin"}
    runs = [one for one in spans.values() if one["name"] == "run/traced_app.work"]
    assert len(roots) == len(TASKS)
    assert len(runs) == len(TASKS) * len(RUNS)
    assert {one["context"]["trace_id"] for one in runs} == roots
    inside: dict[str, set[str]] = defaultdict(set)
    for one in spans.values():
        if one["name"].startswith(WAYS):
            (parent,) = [up for up in ancestors(one) if up["name"] == "run/traced_app.work"][:1]
            inside[parent["context"]["span_id"]].add(one["name"])
    expected = [{f"{way} {at} {number}" for way in WAYS} for at in RUNS for number in TASKS]
    assert sorted(map(sorted, inside.values())) == sorted(map(sorted, expected))


@pytest.mark.parametrize("voice", ["logging", "structlog"])
def test_each_record_has_the_fields_of_its_task(worker: Worker, tmp_path: Path, voice: str) -> None:
    """Id, name, retries and limiter waits, from the task, its greenlets, its pool and its coroutines."""
    run(worker, "otel")
    notes = [one for one in lines(tmp_path, voice) if "way" in one]
    ids: dict[int, set[str]] = defaultdict(set)
    for one in notes:
        way, at = one["way"].split()
        ids[one["number"]].add(one["task_id"])
        assert one["task_name"] == "traced_app.work", one
        # Only the task's own retry is an attempt; a wait for a quota is none.
        assert one["task_retries"] == min(int(at), 1), one
        assert one["in_child"] is (way != "own"), one
        assert one["greenlet"] > 0
    assert len(notes) == len(WAYS) * len(RUNS) * len(TASKS)
    assert all(len(found) == 1 for found in ids.values())
    assert len({name for found in ids.values() for name in found}) == len(TASKS)
    assert sum(one["limiter_waited"] > 0 for one in notes) > 0
