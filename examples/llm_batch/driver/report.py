"""Turn what was counted into the numbers, and the numbers into the table."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import TYPE_CHECKING

from driver.flight import middle

if TYPE_CHECKING:
    import argparse

    from driver.flight import Flight

PACKAGES = ("greenkit", "gevent", "celery", "django", "djangorestframework", "psycopg2-binary")


def numbers(
    options: argparse.Namespace,
    progress: dict | None,
    stats: dict | None,
    *,
    peak: int | None,
    most: int,
    lag: float | None,
) -> dict:
    """Return the result as plain data. What could not be counted is None: it is not zero.

    Args:
        progress: What the API said last; None when it did not answer, empty when nothing was posted.
        stats: What the mock server counted; None and empty likewise.
        peak: Database connections of the worker, the most seen at once.
        most: How many it was allowed.
        lag: Seconds the worker's hub stood still at worst.
    """
    rows = _counted(progress, "answered")
    wall = (progress or {}).get("seconds", 0.0)
    # Whichever quota is the slower one, the limiter's or the server's.
    ideal = max(one.ideal(options.calls, options.latency) for one in (options.rate, options.server_rate))
    return {
        "calls": options.calls,
        "rows": rows,
        "duplicates": _counted(stats, "repeats"),
        "lost": None if rows is None else options.calls - rows,
        "rejected": _counted(stats, "rejected"),
        "wall_s": round(wall, 3),
        "ideal_s": round(ideal, 3),
        "calls_per_s": round((rows or 0) / wall, 2) if wall else 0.0,
        "limiter_wait_p50_s": _rounded((progress or {}).get("waited_p50")),
        "limiter_wait_p95_s": _rounded((progress or {}).get("waited_p95")),
        "hub_lag_max_s": _rounded(lag),
        "peak_db_connections": peak,
        "max_db_connections": most,
        "peak_in_flight": _counted(stats, "peak_in_flight"),
        "worst_second": _counted(stats, "worst_second"),
        "server_calls": _counted(stats, "calls"),
        "tokens": _counted(progress, "tokens"),
        "pool": options.pool,
        "broker": options.broker,
        "concurrency": options.concurrency,
        "processes": options.processes,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }


def loads(found: dict, flight: Flight | None, burden: tuple[float | None, float | None]) -> dict:
    """Return what the batch's middle asked of the worker, as plain data; None is not known.

    Args:
        found: The numbers of the batch.
        burden: CPU seconds and MiB of the worker.
    """
    mean, rate = (flight and middle(flight.samples, found["calls"])) or (None, None)
    cpu, memory = burden
    return {
        "mean_in_flight": _rounded(mean),
        "middle_calls_per_s": _rounded(rate),
        "worker_cpu_ms": _rounded(1000 * cpu / found["rows"] if cpu is not None and found["rows"] else None),
        "worker_memory_mib": _rounded(memory),
    }


def _counted(source: dict | None, name: str) -> int | None:
    return None if source is None else source.get(name, 0)


def _number(value: int | None) -> str:
    return "unknown" if value is None else str(value)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def rows(found: dict, *, quota: str) -> list[tuple[str, str, str]]:
    """Return the table's lines: what, number, remark."""
    wall, ideal, lag = found["wall_s"], found["ideal_s"], found["hub_lag_max_s"]
    split = f"{found['processes']} processes with a share each" if found["processes"] > 1 else ""
    whole = wall and not found["lost"]
    times = f"{wall / ideal:.2f} x ideal, batch's row to last answer" if whole else ""
    lost = ("lost", "prompts without a row")
    if found["interrupted"]:
        lost = ("not answered", "the demo was stopped")
    return [
        (
            "rows written",
            _number(found["rows"]),
            f"of {found['calls']} prompts, {_number(found['tokens'])} tokens",
        ),
        ("calls per second", f"{found['calls_per_s']:.1f}", f"the quota: {quota}"),
        (
            "rejected (429)",
            _number(found["rejected"]),
            f"of {_number(found['server_calls'])} calls the server counted",
        ),
        ("duplicates", _number(found["duplicates"]), "answered again, counted by the server"),
        (lost[0], _number(found["lost"]), lost[1]),
        *_unsaved(found),
        ("limiter wait p50", _seconds(found["limiter_wait_p50_s"]), split),
        ("limiter wait p95", _seconds(found["limiter_wait_p95_s"]), ""),
        ("worst hub lag", _seconds(lag), f"{found['pool']} has no hub" if found["pool"] != "gevent" else ""),
        (
            "peak connections",
            _number(found["peak_db_connections"]),
            f"of {found['max_db_connections']} to Postgres",
        ),
        ("peak calls in flight", _number(found["peak_in_flight"]), f"concurrency {found['concurrency']}"),
        ("wall", _seconds(wall), times),
        ("ideal", _seconds(ideal), "(calls - burst) / rate + latency"),
    ]


def _unsaved(found: dict) -> list[tuple[str, str, str]]:
    """Return the line that says why the server counted more calls than there are rows, after Ctrl-C."""
    calls = None if found["server_calls"] is None else found["server_calls"] - (found["rejected"] or 0)
    if not found["interrupted"] or calls is None or found["rows"] is None or calls <= found["rows"]:
        return []
    remark = "under way when the demo was stopped: asked, and not yet written"
    return [("calls without a row", str(calls - found["rows"]), remark)]


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f} s"
