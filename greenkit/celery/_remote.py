"""`celery -A proj inspect greenkit`: what every worker's pools, limits and watchdog say."""

from __future__ import annotations

from typing import Any

from celery.worker.control import inspect_command

from greenkit import facts

__all__ = ["report"]


@inspect_command(name="greenkit")  # type: ignore[untyped-decorator]  # Celery ships no types
def report(state: Any, **_: Any) -> dict[str, Any]:
    """Pools, limits, connections and hub lag of this worker."""
    return facts.snapshot()
