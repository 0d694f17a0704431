"""What greenkit measures, as a table: where a number stands among the facts, its name, its unit, its meaning.

Pure: a snapshot of the facts in, families of samples out. Names follow Prometheus' conventions: a unit at the
end, `_total` for what only grows. Labels are names that code gives (a limiter, a pool, a dimension), never
keys or ids; of one family at most 100 label sets are told apart, the rest are summed up as "other".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["ROWS", "Family", "Row", "families"]

MOST_LABELS = 100


@dataclass(frozen=True, slots=True)
class Row:
    """Say where a number comes from and what it is called.

    Attributes:
        section: Its kind among the facts, such as "limiter".
        field: Its name in the statistics; a dictionary gives a sample for each of its keys.
        name: What it measures, without prefix, unit and `_total`.
        about: One line for the reader of a dashboard.
        unit: "seconds", "ratio" or "" for a count.
        counts: It only grows.
        label: What the name of the thing is called as a label.
        more: Further labels, fixed.
        key_label: What the keys of a dictionary are called as a label.
    """

    section: str
    field: str
    name: str
    about: str
    unit: str = ""
    counts: bool = False
    label: str = ""
    more: tuple[tuple[str, str], ...] = ()
    key_label: str = ""

    @property
    def prometheus(self) -> str:
        """Return its name in Prometheus' format, with the `_total` of a counter."""
        return "_".join(
            part for part in ("greenkit", self.name, self.unit, "total" if self.counts else "") if part
        )

    @property
    def otel(self) -> str:
        """Return its name in OpenTelemetry's conventions; the unit goes apart."""
        return "greenkit." + self.name.replace("_", ".", 1)


@dataclass(slots=True)
class Family:
    """One metric with its samples.

    Attributes:
        row: What it is.
        samples: {((label, value), …): number}.
    """

    row: Row
    samples: dict[tuple[tuple[str, str], ...], float] = field(default_factory=dict)


def _state(state: str) -> tuple[tuple[str, str], ...]:
    return (("state", state),)


_POOL_TASKS = "Work of a pool, by what it does: running, waiting for a slot, limited (waits for its limiter)."
ROWS: tuple[Row, ...] = (
    Row("pool", "size", "pool_slots", "Slots of a pool: what may run at once.", label="pool"),
    Row("pool", "in_use", "pool_tasks", _POOL_TASKS, label="pool", more=_state("running")),
    Row("pool", "waiting", "pool_tasks", _POOL_TASKS, label="pool", more=_state("waiting")),
    Row("pool", "limited", "pool_tasks", _POOL_TASKS, label="pool", more=_state("limited")),
    Row("pool", "ended", "pool_tasks_ended", "Tasks that ended.", counts=True, label="pool"),
    Row("limiter", "waiting", "limiter_waiting", "Callers in line.", label="limiter"),
    Row("limiter", "in_use", "limiter_in_use", "Permits held.", label="limiter"),
    Row("limiter", "granted", "limiter_granted", "Permits given.", counts=True, label="limiter"),
    Row("limiter", "refused", "limiter_refused", "Answers `not now`.", counts=True, label="limiter"),
    Row("limiter", "timed_out", "limiter_timeouts", "Waits without a permit.", counts=True, label="limiter"),
    Row("limiter", "rejected", "limiter_rejected", "429s of the server.", counts=True, label="limiter"),
    Row("limiter", "paused_for", "limiter_pause", "Until the pause ends.", unit="seconds", label="limiter"),
    Row("limiter", "pace", "limiter_pace", "Share of the rate used now.", unit="ratio", label="limiter"),
    Row("limiter", "available", "limiter_available", "Units that could go now; negative while in debt.",
        label="limiter", key_label="dimension"),
    Row("limiter", "keys", "limiter_keys", "Keys remembered.", label="limiter"),
    Row("connections", "max_size", "connections_limit", "Connections there may be.", label="pool"),
    Row("connections", "size", "connections_open", "Connections there are.", label="pool"),
    Row("connections", "in_use", "connections_in_use", "Connections lent.", label="pool"),
    Row("connections", "waiting", "connections_waiting", "Callers that wait for one.", label="pool"),
    Row("connections", "held_longest", "connections_held_longest", "The longest loan that goes on.",
        unit="seconds", label="pool"),
    Row("connections", "created", "connections_opened", "Connections opened.", counts=True, label="pool"),
    Row("connections", "taken_back", "connections_leaked", "Taken back from borrowers that ended.",
        counts=True, label="pool"),
    Row("connections", "timeouts", "connections_timeouts", "Waits without one.", counts=True, label="pool"),
    Row("connections", "connect_errors", "connections_errors", "Attempts to connect that failed.",
        counts=True, label="pool"),
    Row("connections", "away", "connections_away", "Since the server refuses.", unit="seconds", label="pool"),
    Row("watchdog", "blocks", "hub_blocks", "Times the hub stood still over the threshold.", counts=True),
    Row("watchdog", "blocked_seconds", "hub_blocked", "How long these blocks lasted together.",
        unit="seconds", counts=True),
    Row("offload", "size", "offload_threads", "Native threads there may be.", label="pool"),
    Row("offload", "running", "offload_running", "Calls that run in native threads.", label="pool"),
    Row("offload", "waiting", "offload_waiting", "Callers that wait for a thread.", label="pool"),
    Row("offload", "abandoned", "offload_abandoned", "Calls that run on for nobody.", label="pool"),
    Row("offload", "finished", "offload_calls", "Calls that ended.", counts=True, label="pool"),
    Row("aio", "running", "aio_running", "Coroutines that greenlets wait for."),
    Row("aio", "tasks", "aio_tasks", "asyncio tasks on the long-lived loop."),
    Row("aio", "finished", "aio_finished", "Coroutines that ended.", counts=True),
    Row("aio", "cancelled", "aio_cancelled", "Coroutines cancelled with their caller.", counts=True),
    Row("children", "left", "children_left", "Greenlets and asyncio tasks that Celery tasks left behind.",
        counts=True),
)  # fmt: skip
"""Every number that is read from the facts; histograms are in `_observed.py`."""


def families(snapshot: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[Family]:
    """Return the families of a `facts.snapshot()`; things of one name are summed up.

    Switches: never.
    """
    found: dict[str, Family] = {}
    for row in ROWS:
        for name, statistics in snapshot.get(row.section, {}).items():
            # Two things of one name are told apart by "#" and an address, which no label may hold.
            labels = ((row.label, name.partition("#")[0]),) if row.label else ()
            for more, value in _values(row, statistics):
                family = found.setdefault(row.prometheus, Family(row))
                _add(family.samples, (*labels, *row.more, *more), value)
    return list(found.values())


def _values(row: Row, statistics: Mapping[str, Any]) -> Iterable[tuple[tuple[tuple[str, str], ...], float]]:
    value = statistics.get(row.field)
    if row.field == "held_longest":
        value = max((holder["seconds"] for holder in statistics.get("borrowers", ())), default=0.0)
    if isinstance(value, dict):
        for key, number in value.items():
            yield ((row.key_label, str(key)),), float(number)
    elif value is not None:  # a field this kind of pool does not have
        yield (), float(value)


def _add(
    samples: dict[tuple[tuple[str, str], ...], float], labels: tuple[tuple[str, str], ...], value: float
) -> None:
    if labels not in samples and len(samples) >= MOST_LABELS:
        labels = tuple((label, "other") for label, _ in labels)
    samples[labels] = samples.get(labels, 0.0) + value
