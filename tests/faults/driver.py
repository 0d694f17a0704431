"""Carry out one plan from begin to end and hand the evidence to the judge."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults.evidence import Evidence
from tests.faults.faults import STOP_WITHIN, heal, strike
from tests.faults.judge import Verdict, judge
from tests.faults.plan import WORKERS
from tests.faults.world import World

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.plan import Plan

MARGIN = 25.0  # seconds on top of the visibility timeout until what was lost sight of is done


@dataclass(frozen=True, slots=True)
class Result:
    """One run: what was planned, what came out, and how it looked.

    Attributes:
        plan: The plan.
        evidence: What the judge saw.
        verdict: What it said.
        seconds: How long it took.
        folder: Where timeline, run log and the workers' logs are.
        memory: (megabytes, descriptors) of each worker before it was stopped.
        began: Where the timeline begins, on the wall clock.
    """

    plan: Plan
    evidence: Evidence
    verdict: Verdict
    seconds: float
    folder: Path
    memory: dict[str, tuple[int, int]]
    began: float


def carry_out(plan: Plan, folder: Path, *, loud: bool = False) -> Result:
    """Run a plan; everything it starts is gone when this returns."""
    folder.mkdir(parents=True, exist_ok=True)
    begin, open_before = time.monotonic(), descriptors(os.getpid())
    with World(plan, folder, loud=loud) as world:
        world.send(range(plan.waves[0][1]))
        for name in WORKERS:
            world.start(name)
        with _watching(world):
            _hurt(world)
            heal(world)
            _settle(world)
        memory = {name: _size(world, name) for name in WORKERS}
        before = world.queued()
        left = _stop(world)
        # Once more: on RabbitMQ what a worker had in hand is in the queue when its connection is closed.
        queued = {name: max(many, before[name]) for name, many in world.queued().items()}
        seen = Evidence(
            tasks=plan.tasks, rows=world.rows(), runs=world.runs(), blows=world.line.blows,
            ends=world.ends, queued=queued, samples=world.samples, left=left,
            connections=0 if plan.plain else plan.connections, failures=world.failures,
        )  # fmt: skip
    gc.collect()  # kombu's Redis transport leaves its epoll descriptor to the collector
    left["descriptors of the driver"] = max(0, descriptors(os.getpid()) - open_before)
    return Result(plan, seen, judge(seen), time.monotonic() - begin, folder, memory, world.line.begin)


@contextlib.contextmanager
def _watching(world: World) -> object:
    """Count connections, and see workers that end by themselves, until the block is over."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            with contextlib.suppress(Exception):  # Postgres is down: nothing to count
                world.sample()
            for name in WORKERS:
                world.look_after(name)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(60)


def _hurt(world: World) -> None:
    """Do all faults and send all waves, each at its time; what hurts different things overlaps."""
    begin = time.monotonic()
    events: list[tuple[float, Callable[[], None]]] = [
        (fault.at, lambda fault=fault: _try(world, fault)) for fault in world.plan.faults
    ]
    sent = world.plan.waves[0][1]
    for at, many in world.plan.waves[1:]:
        events.append((at, lambda numbers=range(sent, sent + many): _send(world, numbers)))
        sent += many
    threads = []
    for at, do in sorted(events, key=lambda event: event[0]):
        time.sleep(max(0.0, begin + at - time.monotonic()))
        threads.append(threading.Thread(target=do))
        threads[-1].start()
    for thread in threads:
        thread.join()
    world.say("faults over")


def _try(world: World, fault: object) -> None:
    try:
        strike(world, fault)
    except Exception as error:
        world.failed(str(fault), error)


def _send(world: World, numbers: range) -> None:
    # Under the broker's lock: a message sent to a dying broker may be there once, twice or not at all.
    with world.locks["broker"]:
        try:
            world.send(numbers)
        except Exception as error:
            world.failed(f"sending {numbers}", error)


def _settle(world: World) -> None:
    """Wait until every task has a row and nothing is queued; what was lost sight of comes back by itself."""
    patience = world.plan.visibility + MARGIN
    last, since = (-1, -1), time.monotonic()
    while time.monotonic() - since < patience:
        with contextlib.suppress(Exception):  # a server is just coming back
            now = (world.done(), sum(world.queued().values()))
            if now != last:
                last, since = now, time.monotonic()
            if now == (world.plan.tasks, 0) and _idle(world):
                break
        time.sleep(0.5)
    world.say(f"settled: {last[0]} of {world.plan.tasks} tasks have a row, {last[1]} messages are left")


def _idle(world: World) -> bool:
    """Tell whether nothing runs: on RabbitMQ a message in hand is in no queue."""
    return all(run.end is not None or not _alive(run.pid) for run in world.runs())


def _alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _stop(world: World) -> dict[str, int]:
    """Stop the workers and count what they leave."""
    for name in WORKERS:
        with world.locks[name]:
            world.look_after(name)
            world.ended(name, world.workers[name].stop(timeout=STOP_WITHIN))
    count = {
        "connections to Postgres": lambda: int(
            world.sql("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'faults-%'")[0][0]
        ),
        "connections to the broker": lambda: world.to_broker.statistics().open,
        "connections to the limiter's server": lambda: world.to_limiter.statistics().open,
    }
    return {f"{name} after the stop": _soon_none(look) for name, look in count.items()}


def _soon_none(look: Callable[[], int]) -> int:
    """Return what is left; a closed connection may take a moment to be seen."""
    for _ in range(50):
        if not look():
            return 0
        time.sleep(0.1)
    return look()


def _size(world: World, name: str) -> tuple[int, int]:
    if not world.workers[name].running:
        return 0, 0  # it ended by itself, which the judge is told of
    pid = world.workers[name].pid
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) >> 10, descriptors(pid)
    return 0, 0


def descriptors(pid: int) -> int:
    """Return how many descriptors a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
