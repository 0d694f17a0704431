"""The facts as instruments of OpenTelemetry's metrics API; an SDK and its exporter are the program's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.metrics import CallbackOptions, Meter, Observation, get_meter

from greenkit import __version__, facts
from greenkit.metrics._families import ROWS, families
from greenkit.metrics._observed import HUB_LAG, LIMITER_WAIT, Observed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from greenkit.metrics._families import Row

__all__ = ["instrument"]

_UNITS = {"seconds": "s", "ratio": "1", "": "1"}


def instrument(meter: Meter | None = None) -> Observed:
    """Give `meter` instruments for all that greenkit knows; see `greenkit.metrics.instrument()`."""
    meter = meter or get_meter("greenkit", __version__)
    histograms: dict[str, Any] = {
        HUB_LAG: meter.create_histogram("greenkit.hub.lag", "s", "How late the hub comes to its timers."),
        LIMITER_WAIT: meter.create_histogram(
            "greenkit.limiter.wait", "s", "How long callers waited for a permit."
        ),
    }
    rows: dict[str, Row] = {row.otel: row for row in ROWS}
    for name, row in rows.items():
        create: Any = meter.create_observable_counter if row.counts else meter.create_observable_gauge
        create(name, [_observe(name)], _UNITS[row.unit], row.about)

    def record(name: str, seconds: float, labels: dict[str, str]) -> None:
        histograms[name].record(seconds, labels)

    return Observed(also=record)


def _observe(name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_: CallbackOptions) -> Sequence[Observation]:
        return [
            Observation(value, dict(labels))
            for family in families(facts.snapshot())
            if family.row.otel == name
            for labels, value in family.samples.items()
        ]

    return observe
