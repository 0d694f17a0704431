"""OpenTelemetry's SDK: spans and greenkit's numbers, to a collector or else into a file of JSON lines."""

import os
from pathlib import Path

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

import greenkit.metrics

providers = []


def exporters():
    if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        return OTLPSpanExporter(), OTLPMetricExporter()
    out = Path(os.environ["TELEMETRY_FILE"]).open("a")  # noqa: SIM115 - until the process ends
    return (
        ConsoleSpanExporter(out=out, formatter=lambda span: span.to_json(indent=None) + "\n"),
        ConsoleMetricExporter(out=out, formatter=lambda told: told.to_json(indent=None) + "\n"),
    )


def start():
    spans, numbers = exporters()
    tracing = TracerProvider()
    tracing.add_span_processor(BatchSpanProcessor(spans))
    trace.set_tracer_provider(tracing)
    measuring = MeterProvider([PeriodicExportingMetricReader(numbers)])
    metrics.set_meter_provider(measuring)
    greenkit.metrics.instrument()
    providers.extend([tracing, measuring])


def stop():
    while providers:
        providers.pop().shutdown()  # sends what is left
