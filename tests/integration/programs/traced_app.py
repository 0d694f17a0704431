"""An app whose tasks are traced, by Sentry or OpenTelemetry, and logged, into files of JSON lines."""

import greenkit.auto

# isort: split
import json
import logging
import os
import time
from pathlib import Path

import gevent
import structlog
from celery import Celery
from celery.signals import after_setup_logger

import greenkit.celery
from greenkit import GreenPool, Limiter, WouldWait, aio

FOLDER = Path(os.environ["TEST_FOLDER"])
app = Celery("traced_app", broker=os.environ["TEST_BROKER"], backend=os.environ["TEST_BACKEND"])
app.conf.update(task_acks_late=True)
greenkit.celery.install(app, children="join")
limiter = Limiter("llm", requests="100/s burst 1")
structlog.configure(
    processors=[greenkit.celery.add_task_fields, structlog.processors.JSONRenderer()],
    logger_factory=structlog.WriteLoggerFactory((FOLDER / "structlog").open("a", buffering=1)),
)
log = structlog.get_logger()


def append(name, line):
    with (FOLDER / name).open("a") as file:
        file.write(json.dumps(line) + "\n")


if os.environ["TEST_TRACER"] == "sentry":
    import sentry_sdk
    from sentry_sdk.integrations.celery import CeleryIntegration

    class ToFile(sentry_sdk.transport.Transport):
        def capture_envelope(self, envelope):
            for item in envelope.items:
                if item.type in {"transaction", "event"}:
                    append("sentry", item.payload.json)

    sentry_sdk.init(
        dsn="http://key@127.0.0.1:9/1",
        traces_sample_rate=1.0,
        transport=ToFile,
        # Celery's only: what it finds by itself loads every vendor's SDK of the environment.
        auto_enabling_integrations=False,
        integrations=[CeleryIntegration()],
    )

    def span(name):
        return sentry_sdk.start_span(op="test", name=name)
else:
    from opentelemetry import trace
    from opentelemetry.instrumentation.celery import CeleryInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

    provider = TracerProvider()
    out = (FOLDER / "otel").open("a", buffering=1)
    provider.add_span_processor(
        SimpleSpanProcessor(ConsoleSpanExporter(out=out, formatter=lambda s: s.to_json(indent=None) + "\n"))
    )
    trace.set_tracer_provider(provider)
    CeleryInstrumentor().instrument()

    def span(name):
        return trace.get_tracer("test").start_as_current_span(name)


@after_setup_logger.connect
def to_file(logger, **_):
    """Each record as JSON, with what its filter added, as a JSON formatter does."""
    handler = logging.FileHandler(FOLDER / "logging")
    handler.addFilter(greenkit.celery.TaskFields())
    handler.setFormatter(Lines())
    logger.addHandler(handler)


class Lines(logging.Formatter):
    def format(self, record):
        return json.dumps(vars(record), default=str)


def note(way, number):
    """Say it in every voice there is: a span, a record of logging, one of structlog."""
    with span(f"{way} {number}"):
        time.sleep(0.01)
        logging.getLogger("traced").warning("note", extra={"way": way, "number": number})
        log.warning("note", way=way, number=number)


async def note_later(way, number):
    note(way, number)


@app.task
def begin(number):
    """Send the task that is looked at, in the trace of this one."""
    work.delay(number)


@app.task(bind=True, max_retries=2)
def work(self, number):
    attempt = Path(FOLDER, f"attempt-{number}")
    seen = int(attempt.read_text()) if attempt.exists() else 0
    attempt.write_text(str(seen + 1))
    with limiter.permit():
        note(f"own {seen}", number)
    gevent.spawn(note, f"greenlet {seen}", number).join()
    with GreenPool(2) as pool:
        pool.spawn(note, f"pool {seen}", number)
    aio.run(note_later(f"coroutine {seen}", number))
    if seen == 0:
        raise self.retry(countdown=0)
    if seen == 1:
        raise WouldWait("full", eta=0.01)  # greenkit's own retry
    raise ValueError(f"error of {number}")
