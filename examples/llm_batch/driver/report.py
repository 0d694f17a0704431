"""Turn what was counted into the numbers, and the numbers into the table."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

PACKAGES = ("greenkit", "gevent", "celery", "django", "djangorestframework", "psycopg2-binary")


def numbers(
    options: argparse.Namespace, progress: dict, stats: dict, *, peak: int, most: int, lag: float | None
) -> dict:
    """Return the result as plain data.

    Args:
        progress: What the API said last.
        stats: What the mock server counted.
        peak: Database connections of the worker, the most seen at once.
        most: How many it was allowed.
        lag: Seconds the worker's hub stood still at worst.
    """
    rows = progress.get("answered", 0)
    wall = progress.get("seconds", 0.0)
    # Whichever quota is the slower one, the limiter's or the server's.
    ideal = max(one.ideal(options.calls, options.latency) for one in (options.rate, options.server_rate))
    return {
        "calls": options.calls,
        "rows": rows,
        "duplicates": stats.get("repeats", 0),
        "lost": options.calls - rows,
        "rejected": stats.get("rejected", 0),
        "wall_s": round(wall, 3),
        "ideal_s": round(ideal, 3),
        "calls_per_s": round(rows / wall, 2) if wall else 0.0,
        "limiter_wait_p50_s": _rounded(progress.get("waited_p50")),
        "limiter_wait_p95_s": _rounded(progress.get("waited_p95")),
        "hub_lag_max_s": _rounded(lag),
        "peak_db_connections": peak,
        "max_db_connections": most,
        "peak_in_flight": stats.get("peak_in_flight", 0),
        "worst_second": stats.get("worst_second", 0),
        "server_calls": stats.get("calls", 0),
        "tokens": progress.get("tokens", 0),
        "pool": options.pool,
        "broker": options.broker,
        "concurrency": options.concurrency,
        "processes": options.processes,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }


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
        ("rows written", str(found["rows"]), f"of {found['calls']} prompts, {found['tokens']} tokens"),
        ("calls per second", f"{found['calls_per_s']:.1f}", f"the quota: {quota}"),
        ("rejected (429)", str(found["rejected"]), f"of {found['server_calls']} calls the server counted"),
        ("duplicates", str(found["duplicates"]), "answered again, counted by the server"),
        (lost[0], str(found["lost"]), lost[1]),
        ("limiter wait p50", _seconds(found["limiter_wait_p50_s"]), split),
        ("limiter wait p95", _seconds(found["limiter_wait_p95_s"]), ""),
        ("worst hub lag", _seconds(lag), f"{found['pool']} has no hub" if found["pool"] != "gevent" else ""),
        (
            "peak connections",
            str(found["peak_db_connections"]),
            f"of {found['max_db_connections']} to Postgres",
        ),
        ("peak calls in flight", str(found["peak_in_flight"]), f"concurrency {found['concurrency']}"),
        ("wall", _seconds(wall), times),
        ("ideal", _seconds(ideal), "(calls - burst) / rate + latency"),
    ]


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f} s"
