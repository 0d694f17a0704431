"""Say what a run did wrong. Pure: evidence goes in, complaints come out; none means that every promise held.

A task may write a second row only when one of its runs was running at a worker's kill or at a cut of its
broker: each row more than the first needs such a run of its own, and gets its name.
"""

from __future__ import annotations

import signal
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from greenkit.testing import ProgramEnd
    from tests.faults.evidence import Blow, Evidence, Run

# Seconds an acknowledgement may take after its task has ended; it dies with the worker or the connection.
ACK = 1.0
# Seconds until a worker notices that its connection is gone, and is back after it could be.
NOTICE = 2.0
# Seconds that connections of a worker may linger in Postgres after its network was at fault.
LINGER = 10.0

# A pause shorter than any time-out delays, and cuts nothing; neither does a slow network.
NO_CUT = frozenset({"broker-pause", "broker-slow", "broker-forgets-scripts"})


@dataclass(slots=True)
class Verdict:
    """What came out.

    Attributes:
        complaints: Each broken promise, in words; empty is a pass.
        lost: Tasks without a row.
        repeats: (task, why) of each row more than the first that is accounted for.
        unaccounted: Tasks with more rows than can be accounted for.
        by_themselves: How many workers ended without being told to.
        peak: The most connections one life of a worker had.
    """

    complaints: list[str] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    repeats: list[tuple[int, str]] = field(default_factory=list)
    unaccounted: list[int] = field(default_factory=list)
    by_themselves: int = 0
    peak: int = 0

    @property
    def passed(self) -> bool:
        """Tell whether every promise held."""
        return not self.complaints


def judge(seen: Evidence) -> Verdict:
    """Return the verdict on one run."""
    verdict = Verdict()
    _judge_rows(seen, verdict)
    _judge_workers(seen, verdict)
    _judge_connections(seen, verdict)
    verdict.complaints += [f"the rig failed: {failure}" for failure in seen.failures]
    for name, many in {**seen.queued, **seen.left}.items():
        if many:
            verdict.complaints.append(f"left behind: {many} {name}")
    return verdict


def _judge_rows(seen: Evidence, verdict: Verdict) -> None:
    rows: dict[int, list[str]] = defaultdict(list)
    for task, run in seen.rows:
        rows[task].append(run)
    runs: dict[int, list[Run]] = defaultdict(list)
    for run in seen.runs:
        runs[run.task].append(run)
    verdict.lost = [task for task in range(seen.tasks) if task not in rows]
    if verdict.lost:
        verdict.complaints.append(f"lost: {len(verdict.lost)} tasks have no row: {_some(verdict.lost)}")
    for task, wrote in sorted(rows.items()):
        reasons = [why for run in runs[task] if (why := _struck(run, run.run in wrote, seen.blows))]
        verdict.repeats += [(task, why) for why in reasons[: len(wrote) - 1]]
        if len(wrote) - 1 > len(reasons):
            verdict.unaccounted.append(task)
    if verdict.unaccounted:
        verdict.complaints.append(
            f"repeated: {len(verdict.unaccounted)} tasks have more rows than runs that were struck:"
            f" {_some(verdict.unaccounted)}"
        )
    strangers = sorted(task for task in rows if not 0 <= task < seen.tasks)
    if strangers:
        verdict.complaints.append(f"rows of tasks that were never sent: {_some(strangers)}")


def _struck(run: Run, wrote: bool, blows: list[Blow]) -> str:
    """Return why another run may do what this one did, or nothing."""
    if run.how.startswith("database") and wrote:
        return "its row was written, and the answer of Postgres was lost"
    for blow in blows:
        if blow.kind == "worker-kill" and run.pid == blow.pid and _ran(run, blow.begin - ACK, blow.begin):
            return f"ran at the kill of {blow.target}"
        stopped = blow.kind == "worker-replace" and run.pid == blow.pid
        # A warm stop gives back what its drain time did not suffice for; what ended by then is done.
        if stopped and run.how in ("", "interrupted") and _ran(run, blow.begin, blow.end):
            return f"was interrupted by the stop of {blow.target}"
        cut = blow.target == "broker" and blow.kind not in NO_CUT
        if cut and _ran(run, blow.begin - ACK, blow.end + NOTICE):
            return f"ran at {blow.kind}"
    return ""


def _ran(run: Run, begin: float, end: float) -> bool:
    return run.start <= end and (run.end is None or run.end >= begin)


def _judge_workers(seen: Evidence, verdict: Verdict) -> None:
    for worker, end in seen.ends:
        if end.by_itself:
            verdict.by_themselves += 1
            verdict.complaints.append(f"{worker} (pid {end.pid}) ended by itself with status {end.status}")
        elif end.forced:
            verdict.complaints.append(f"{worker} (pid {end.pid}) did not stop when told to, and was killed")
        elif end.asked == "stop" and end.status and not _unborn(end, seen.runs):
            verdict.complaints.append(f"{worker} (pid {end.pid}) was stopped and ended with {end.status}")
        if end.left:
            verdict.complaints.append(f"{worker} (pid {end.pid}) left {end.left} processes behind")


def _unborn(end: ProgramEnd, runs: list[Run]) -> bool:
    """Tell whether it was stopped while it still imported, before it could hear a signal."""
    return end.status == -signal.SIGTERM and all(run.pid != end.pid for run in runs)


def _judge_connections(seen: Evidence, verdict: Verdict) -> None:
    blows = [blow for blow in seen.blows if blow.target == "postgres"]
    above: Counter[str] = Counter()
    for sample in seen.samples:
        # While its network is at fault a client cannot know whether the other end is closed.
        if any(blow.begin <= sample.at <= blow.end + LINGER for blow in blows):
            continue
        verdict.peak = max(verdict.peak, sample.connections)
        if seen.connections and sample.connections > seen.connections:
            above[sample.name] = max(above[sample.name], sample.connections)
    for name, many in sorted(above.items()):
        verdict.complaints.append(f"{name} had {many} connections, its bound is {seen.connections}")


def _some(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:12]))
    return shown + (", …" if len(numbers) > 12 else "")
