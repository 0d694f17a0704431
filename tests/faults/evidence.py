"""What a run leaves for the judge: values only, and the reading of the run log."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from greenkit.testing import ProgramEnd


@dataclass(slots=True)
class Run:
    """One run of a task, as its worker wrote it down.

    Attributes:
        task: The task's number.
        run: The number of this run, which its row carries too.
        worker: "w1" or "w2".
        pid: The worker's process.
        start: When it began, on the wall clock.
        row: When its row was there, or None.
        end: When its body ended, or None when it was never seen to end.
        how: "done", "interrupted", or what made it come back later.
    """

    task: int
    run: str
    worker: str
    pid: int
    start: float
    row: float | None = None
    end: float | None = None
    how: str = ""


@dataclass(frozen=True, slots=True)
class Blow:
    """Something that happened, and when it was over.

    Attributes:
        kind: The fault, such as "broker-cut", or "end" for a worker that ended by itself.
        target: What it hit.
        begin: When it began, on the wall clock.
        end: When all was as before.
        pid: The process that was killed or stopped, else 0.
    """

    kind: str
    target: str
    begin: float
    end: float
    pid: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """How many connections one life of a worker had in Postgres at one moment."""

    at: float
    name: str
    connections: int


@dataclass(slots=True)
class Evidence:
    """All the judge may look at.

    Attributes:
        tasks: How many were sent.
        rows: (task, run) of each row.
        runs: What the run log says.
        blows: What happened, in order.
        ends: (worker, how it ended), in order.
        queued: What is left at the broker, by name.
        samples: Connections, twice a second.
        connections: The most a worker may have; 0 is no bound.
        left: What is left after the workers were stopped: a name and a number each.
        failures: What the rig itself could not do.
    """

    tasks: int
    rows: list[tuple[int, str]]
    runs: list[Run]
    blows: list[Blow] = field(default_factory=list)
    ends: list[tuple[str, ProgramEnd]] = field(default_factory=list)
    queued: dict[str, int] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    connections: int = 0
    left: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


def read_runs(lines: Iterable[str]) -> list[Run]:
    """Return the runs a log tells of, in order of their start.

    The last line of a killed worker may be cut short; it says nothing.
    """
    runs: dict[str, Run] = {}
    for line in lines:
        try:
            note = json.loads(line)
        except ValueError:
            continue
        if note["what"] == "start":
            runs[note["run"]] = Run(note["task"], note["run"], note["worker"], note["pid"], note["at"])
        elif note["what"] == "row":
            runs[note["run"]].row = note["at"]
        else:
            runs[note["run"]].end, runs[note["run"]].how = note["at"], note["more"]
    return sorted(runs.values(), key=lambda run: run.start)
