"""What a seed means: which faults, when, how long. Pure: the same seed is the same plan.

A fault names the thing it hurts; two faults of one plan may hurt different things at once.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

WORKERS = ("w1", "w2")
MODES = ("attempts", "limits", "call")


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault.

    Attributes:
        target: The thing it hurts; "worker" is one of the two.
        shortest: Seconds it lasts at least.
        longest: Seconds it lasts at most; 0 for what happens in an instant.
        weight: How often it is drawn, beside the others.
        broker: The only broker that can have it; empty for both.
    """

    target: str
    shortest: float = 0.0
    longest: float = 0.0
    weight: int = 2
    broker: str = ""


KINDS = {
    "worker-kill": Kind("worker", weight=4),
    "worker-replace": Kind("worker", weight=4),
    "worker-freeze": Kind("worker", 0.5, 4.0),
    "broker-kill": Kind("broker", 0.2, 2.0, weight=3),
    "broker-cut": Kind("broker", weight=3),
    "broker-cut-some": Kind("broker"),
    "broker-cut-after": Kind("broker", 0.5, 1.5),
    "broker-half-close": Kind("broker"),
    "broker-refuse-connections": Kind("broker", 0.5, 3.0),
    "broker-pause": Kind("broker", 0.3, 4.0),
    "broker-black-hole": Kind("broker", 0.5, 5.0),
    "broker-slow": Kind("broker", 1.0, 4.0),
    "broker-readonly": Kind("broker", 0.5, 4.0, broker="redis"),
    "broker-full": Kind("broker", 0.5, 4.0, broker="redis"),
    "broker-disk": Kind("broker", 0.5, 4.0, broker="redis"),
    "broker-without-replicas": Kind("broker", 0.5, 4.0, broker="redis"),
    "broker-forgets-scripts": Kind("broker", broker="redis"),
    "broker-channel-error": Kind("broker", weight=5, broker="amqp"),
    "broker-closes-connections": Kind("broker", broker="amqp"),
    "broker-memory-alarm": Kind("broker", 0.5, 4.0, broker="amqp"),
    "postgres-kill": Kind("postgres", 0.2, 2.0),
    "postgres-restart": Kind("postgres"),
    "postgres-terminate": Kind("postgres"),
    "postgres-cut": Kind("postgres"),
    "postgres-pause": Kind("postgres", 0.3, 3.0),
    "postgres-black-hole": Kind("postgres", 0.5, 3.0),
    "limiter-kill": Kind("limiter", 0.1, 3.0),
    "limiter-flush": Kind("limiter"),
    "limiter-cut": Kind("limiter"),
    "limiter-pause": Kind("limiter", 0.3, 4.0),
    "limiter-black-hole": Kind("limiter", 0.3, 4.0),
    "llm-restart": Kind("llm", 0.1, 1.0),
    "llm-errors": Kind("llm", 1.0, 4.0),
    "llm-slow": Kind("llm", 1.0, 4.0),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a plan.

    Attributes:
        at: Seconds after the workers are ready.
        kind: A key of `KINDS`.
        target: What it hurts, such as "w2" or "broker".
        seconds: How long it lasts.
        dice: A number of its own, from 0 to 1, for whatever else it has to draw.
    """

    at: float
    kind: str
    target: str
    seconds: float
    dice: float


@dataclass(frozen=True, slots=True)
class Plan:
    """One run.

    Attributes:
        seed: What everything below is drawn from.
        broker: "redis" or "amqp".
        mode: How the task meets its quota, one of `MODES`.
        faults: In order of their time.
        waves: (seconds, tasks): when how many tasks are sent; the first before the workers start.
        tasks: How many tasks in all.
        seconds: How long faults go on.
        visibility: Redis' visibility timeout; a task's time limit is half of it.
        concurrency: Tasks at once in each worker.
        connections: Connections to Postgres each worker may have.
        rate: The quota.
        plain: Run plain `celery -P gevent` instead of greenkit.
    """

    seed: int
    broker: str
    mode: str
    faults: tuple[Fault, ...]
    waves: tuple[tuple[float, int], ...]
    tasks: int
    seconds: float
    visibility: float = 30.0
    concurrency: int = 60
    connections: int = 4
    rate: str = "80/s"
    plain: bool = False
    chosen: tuple[str, ...] = field(default=())


def make_plan(
    seed: int,
    *,
    broker: str,
    tasks: int,
    seconds: float,
    mode: str = "",
    only: tuple[str, ...] = (),
    **more: object,
) -> Plan:
    """Return what `seed` means; `only` narrows the kinds of fault.

    The same faults whichever mode, so that a mode or the plain rival can be compared on one seed.
    """
    dice = random.Random(f"{seed} {broker}")
    drawn = dice.choice(MODES)
    names = [
        name for name, kind in KINDS.items() if kind.broker in ("", broker) and (not only or name in only)
    ]
    weights = [KINDS[name].weight for name in names]
    faults, at = [], 1.0
    while at < seconds:
        kind = dice.choices(names, weights)[0]
        what = KINDS[kind]
        target = dice.choice(WORKERS) if what.target == "worker" else what.target
        lasts = round(dice.uniform(what.shortest, what.longest), 2)
        faults.append(Fault(round(at, 2), kind, target, lasts, round(dice.random(), 4)))
        at += dice.uniform(0.3, 2.5)
    return Plan(
        seed=seed, broker=broker, mode=mode or drawn, faults=tuple(faults), tasks=tasks, seconds=seconds,
        waves=_waves(dice, tasks, seconds), chosen=only, **more,
    )  # fmt: skip


def _waves(dice: random.Random, tasks: int, seconds: float) -> tuple[tuple[float, int], ...]:
    """Send half at once, for a full window, and the rest in small portions, so that workers are idle too."""
    waves, left, at = [(0.0, tasks - tasks // 2)], tasks // 2, 0.0
    while left:
        at += dice.uniform(0.2, 2.0)
        many = min(left, dice.randint(1, max(2, round(2 * tasks / 2 / seconds))))
        if at >= seconds:
            many = left  # what is left goes in the last second
        waves.append((round(at, 2), many))
        left -= many
    return tuple(waves)
