"""OpenTelemetry's current span goes with the work: into greenlets, pools, coroutines and native threads."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import gevent
import pytest
from gevent.event import AsyncResult
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from greenkit import aio, offload
from greenkit.celery import Options, TaskPool, _child_greenlets
from greenkit.celery._task_body import _edged
from greenkit.pool import GreenPool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
tracer = provider.get_tracer("tests")


@pytest.fixture
def pool() -> Iterator[TaskPool]:
    exporter.clear()
    made = TaskPool(8)
    made.settings = Options(children="join", kill_grace=0.01)
    made.start()
    yield made
    _child_greenlets.unwatch_spawns()
    aio.close()


def note(_: object = None) -> None:
    with tracer.start_as_current_span("inner"):
        pass


async def note_async() -> None:
    await asyncio.sleep(0)
    note()


def in_pool() -> None:
    with GreenPool(2) as crew:
        crew.map(note, range(2))


WAYS: dict[str, Callable[[], Any]] = {
    "itself": note,
    "greenlet": lambda: gevent.spawn(note).join(),
    "grandchild": lambda: gevent.spawn(lambda: gevent.spawn(note).join()).join(),
    "pool": in_pool,
    "coroutine": lambda: aio.run(note_async()),
    "native thread": lambda: offload(note),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_span_of_a_task_is_the_parent_of_what_it_starts(pool: TaskPool, way: str) -> None:
    """Several tasks at once: each inner span has its own task's span for a parent."""
    ended = [AsyncResult() for _ in range(8)]

    def body(number: int) -> int:
        with tracer.start_as_current_span(f"task {number}") as span:
            gevent.idle()
            WAYS[way]()
            return int(span.get_span_context().span_id)

    for number, result in enumerate(ended):
        pool.apply_async(
            lambda number=number: (0, _edged(lambda: body(number))(), 0.0),
            callback=lambda outcome, result=result: result.set(outcome[1]),
            error_callback=lambda info, result=result: result.set_exception(info.exception),
        )
    tasks = {result.get(timeout=10) for result in ended}
    inner = [span for span in exporter.get_finished_spans() if span.name == "inner"]
    assert len(inner) >= 8
    assert {span.parent.span_id for span in inner if span.parent is not None} == tasks
    assert all(span.parent is not None for span in inner)
