"""`greenkit plan`: how many slots, connections and workers a load needs, and what to paste.

Pure arithmetic: Little's law, and two standard deviations of a Poisson stream on top, so that about 2 % of
the arrivals find every slot taken. The formulas are printed beside the numbers.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

__all__ = ["Load", "Plan", "add_plan", "make_plan", "plan"]

_BUSY = 0.7  # share of a core a worker may use: beyond it waits for the processor grow quickly
_WORKER_MIB = 108.0  # a Django and Celery worker at rest, as benchmarks/bench_plan.py measures it
_TASK_MIB = 0.1  # a task in flight: its greenlet, its request, a TLS connection's share


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of the workers.

    Attributes:
        rps: Tasks a second.
        latency: Seconds a task waits for its calls.
        db_ms: Milliseconds a task uses a database connection.
        tokens: Tokens a task costs; 0 when nothing counts them.
        cpu_ms: Milliseconds of CPU a task takes in the worker.
        workers: Worker processes; 0 takes as many as the CPU needs.
        max_connections: What the Postgres server admits.
    """

    rps: float
    latency: float
    db_ms: float = 20.0
    tokens: float = 0.0
    cpu_ms: float = 5.0
    workers: int = 0
    max_connections: int = 100


@dataclass(frozen=True, slots=True)
class Plan:
    """What the load needs; of a worker unless it says "all".

    Attributes:
        workers: Worker processes.
        in_flight: Tasks in flight on average, of all workers.
        slots: Slots of a worker.
        connections: Connections of a worker's pool.
        all_connections: Of all workers.
        requests_per_minute: What the provider must admit.
        tokens_per_minute: The same in tokens.
        tokens_burst: Tokens that may go at once: a second of them, and no fewer than a task costs. A call is
            charged before it knows its cost; what it gives back to a budget that is full already is lost.
        core: Share of a core a worker uses.
        memory_mib: Memory of all workers.
        warnings: What does not fit.
    """

    workers: int
    in_flight: float
    slots: int
    connections: int
    all_connections: int
    requests_per_minute: int
    tokens_per_minute: int
    tokens_burst: int
    core: float
    memory_mib: int
    warnings: tuple[str, ...]


def make_plan(load: Load) -> Plan:
    """Return what `load` needs.

    Raises:
        ValueError: A number that means nothing.
    """
    for name, value in asdict(load).items():
        if not 0 <= value < float("inf") or (value == 0 and name in {"rps", "latency"}):
            raise ValueError(f"{name} is {value:g}; it must be more than 0, and finite")
    cores = load.rps * load.cpu_ms / 1000
    workers = load.workers or max(1, math.ceil(cores / _BUSY))
    in_flight = load.rps * (load.latency + load.db_ms / 1000)
    slots = math.ceil(_with_room(in_flight) / workers)
    connections = max(1, math.ceil(_with_room(load.rps * load.db_ms / 1000) / workers)) if load.db_ms else 0
    plan = Plan(
        workers=workers,
        in_flight=in_flight,
        slots=slots,
        connections=connections,
        all_connections=connections * workers,
        requests_per_minute=math.ceil(load.rps * 60),
        tokens_per_minute=math.ceil(load.rps * load.tokens * 60),
        tokens_burst=math.ceil(max(load.rps, 1) * load.tokens),
        core=cores / workers,
        memory_mib=math.ceil(workers * _WORKER_MIB + workers * slots * _TASK_MIB),
        warnings=(),
    )
    return Plan(**{**asdict(plan), "warnings": tuple(_warnings(load, plan))})


def _with_room(average: float) -> float:
    return average + 2 * math.sqrt(average)


def _warnings(load: Load, plan: Plan) -> list[str]:
    found = []
    if plan.core > _BUSY:
        found.append(
            f"each worker needs {plan.core:.0%} of a core; above {_BUSY:.0%} tasks wait for the processor."
            f" Take {math.ceil(load.rps * load.cpu_ms / 1000 / _BUSY)} workers"
        )
    if plan.all_connections > load.max_connections - 3:  # superuser_reserved_connections
        found.append(
            f"{plan.all_connections} connections and max_connections={load.max_connections}, of which 3 are"
            " reserved: hold them for less time, or put PgBouncer in between"
        )
    return found


def add_plan(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("plan", help="say how many slots, connections and workers a load needs")
    for name, kind, default, text in (
        ("rps", float, None, "tasks a second"),
        ("latency", float, None, "seconds a task waits for its calls"),
        ("db-ms", float, 20.0, "milliseconds a task uses a database connection (20)"),
        ("tokens", float, 0.0, "tokens a task costs"),
        ("cpu-ms", float, 5.0, "milliseconds of CPU a task takes in the worker (5)"),
        ("workers", int, 0, "worker processes; as many as the CPU needs when left out"),
        ("max-connections", int, 100, "what the Postgres server admits (100)"),
    ):
        parser.add_argument(f"--{name}", type=kind, default=default, required=default is None, help=text)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def plan(options: argparse.Namespace) -> int:
    """Run the command; return 0, 1 when something does not fit, 2 for a number that means nothing."""
    names = ("rps", "latency", "db_ms", "tokens", "cpu_ms", "workers", "max_connections")
    load = Load(**{name: getattr(options, name) for name in names})
    try:
        made = make_plan(load)
    except ValueError as error:
        print(f"greenkit plan: {error}")
        return 2
    print(json.dumps(asdict(made)) if options.json else render(load, made))
    return 1 if made.warnings else 0


def render(load: Load, made: Plan) -> str:
    """Return the plan as a table with its formulas, and what to paste."""
    wait = load.latency + load.db_ms / 1000
    count, average = made.workers, f"{made.in_flight:.0f}"
    rows = [
        ("in flight", f"{average} tasks", f"{load.rps:g}/s x {wait:g} s (Little's law)"),
        ("slots", f"{made.slots} a worker", f"(n + 2 sqrt n) / {count} workers, n = {average}"),
        ("CPU", f"{made.core:.0%} of a core a worker", f"{load.rps:g}/s x {load.cpu_ms:g} ms / {count}"),
        ("connections", f"{made.connections} a worker, {made.all_connections} in all",
         f"n = {load.rps:g}/s x {load.db_ms:g} ms, (n + 2 sqrt n) / {made.workers}"),
        ("requests", f"{made.requests_per_minute}/min", f"{load.rps:g}/s x 60"),
    ]  # fmt: skip
    if load.tokens:
        value = f"{made.tokens_per_minute}/min burst {made.tokens_burst}"
        rows.append(("tokens", value, f"{load.rps:g}/s x {load.tokens:g} x 60; burst: a second of them"))
    rows.append(
        (
            "memory",
            f"about {made.memory_mib} MiB",
            f"{made.workers} x {_WORKER_MIB:g} MiB + {_TASK_MIB:g} MiB a slot",
        )
    )
    lines = [f"{name:12} {value:28} {formula}" for name, value, formula in rows]
    lines += ["", f"celery -A proj worker -P gevent -c {made.slots}        # {made.workers} of them", ""]
    if made.connections:
        lines.append(f'DATABASES["default"]["OPTIONS"] = {{"pool": {{"max_size": {made.connections}}}}}')
    lines += ["CELERY_WORKER_PREFETCH_MULTIPLIER = 1", "CELERY_TASK_ACKS_LATE = True"]
    tokens = f', tokens="{made.tokens_per_minute}/min burst {made.tokens_burst}"' if load.tokens else ""
    share = ', share="redis://..."' if made.workers > 1 else ""
    lines.append(f'llm = Limiter("llm", requests="{made.requests_per_minute}/min"{tokens}{share})')
    lines += [f"\nwarning: {warning}" for warning in made.warnings]
    return "\n".join(lines)
