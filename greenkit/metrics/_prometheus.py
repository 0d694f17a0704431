"""The facts as a collector of prometheus_client, and the pages of several processes as one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families

from greenkit import facts
from greenkit.metrics._families import families

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from greenkit.metrics._families import Family
    from greenkit.metrics._observed import Histogram, Observed

__all__ = ["CONTENT_TYPE", "Collector", "merged", "page"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Collector:
    """Give a registry of prometheus_client what greenkit knows, at each scrape.

    Args:
        observed: Its histograms; None leaves them out.
    """

    def __init__(self, observed: Observed | None = None) -> None:
        self._observed = observed

    def collect(self) -> Iterator[Metric]:
        """Yield the families as of now. Switches: never."""
        for family in families(facts.snapshot()):
            yield _metric(family)
        if self._observed is not None:
            yield _histograms(
                "greenkit_hub_lag_seconds",
                "How late the hub comes to its timers.",
                {(): self._observed.hub_lag},
            )
            yield _histograms(
                "greenkit_limiter_wait_seconds",
                "How long callers waited for a permit.",
                {(("limiter", name),): waits for name, waits in self._observed.limiter_waits.items()},
            )


def _metric(family: Family) -> Metric:
    row = family.row
    kind = CounterMetricFamily if row.counts else GaugeMetricFamily
    names = [label for label, _ in next(iter(family.samples), ())]
    made: Any = kind(row.prometheus, row.about, labels=names)
    for labels, value in family.samples.items():
        made.add_metric([value for _, value in labels], value)
    metric: Metric = made
    return metric


def _histograms(name: str, about: str, found: Mapping[tuple[tuple[str, str], ...], Histogram]) -> Metric:
    names = [label for label, _ in next(iter(found), ())]
    made = HistogramMetricFamily(name, about, labels=names)
    for labels, histogram in found.items():
        made.add_metric([value for _, value in labels], histogram.cumulative(), histogram.total)
    return made


class _Given:
    """Metrics that are there already, for `generate_latest()`."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def page(registry: Any = REGISTRY) -> str:
    """Return the text of a scrape of this process. Switches: never, unless a collector of others does."""
    return generate_latest(registry).decode()


def merged(pages: Mapping[str, str]) -> str:
    """Return several pages as one; the label `process` says whose each sample is.

    Args:
        pages: {name of the process: text of its scrape}.

    Switches: never.
    """
    found: dict[str, Metric] = {}
    for process, text in pages.items():
        for metric in text_string_to_metric_families(text):
            into = found.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
            into.samples += [
                sample._replace(labels={**sample.labels, "process": process}) for sample in metric.samples
            ]
    registry = CollectorRegistry()
    registry.register(_Given(found.values()))
    return page(registry)
