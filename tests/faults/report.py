"""Write down what a run showed: a line when it passed, the seed and the timeline when it did not."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.faults.driver import Result


def command(result: Result) -> str:
    """Return what runs the same plan again."""
    plan = result.plan
    words = f"./dev chaos --broker {plan.broker} --first-seed {plan.seed} --seeds 1 --tasks {plan.tasks}"
    words += f" --seconds {plan.seconds:g} --visibility {plan.visibility:g} --concurrency {plan.concurrency}"
    words += f" --mode {plan.mode}" + (" --plain" if plan.plain else "")
    return words + (f" --only {' '.join(plan.chosen)}" if plan.chosen else "")


def line(result: Result) -> str:
    """Return one run in one line."""
    verdict, plan = result.verdict, result.plan
    sizes = ", ".join(f"{name} {mb} MB {fds} fds" for name, (mb, fds) in result.memory.items())
    return (
        f"{plan.broker} seed {plan.seed} {'plain' if plan.plain else plan.mode}:"
        f" {'passed' if verdict.passed else 'FAILED'}, {plan.tasks} tasks, {len(plan.faults)} faults,"
        f" lost {len(verdict.lost)}, rows twice {len(verdict.repeats)} accounted"
        f" {len(verdict.unaccounted)} unaccounted, {verdict.by_themselves} ended by themselves,"
        f" connections {verdict.peak}, {result.seconds:.0f} s ({sizes})"
    )


def failure(result: Result) -> str:
    """Return everything one needs to know of a run that failed."""
    lines = [line(result), *(f"  {complaint}" for complaint in result.verdict.complaints), ""]
    lines += story(result, [*result.verdict.lost[:3], *result.verdict.unaccounted[:5]])
    timeline = (result.folder / "timeline.txt").read_text(encoding="utf-8")
    return "\n".join([*lines, "timeline:", timeline, f"logs: {result.folder}", f"again: {command(result)}"])


def story(result: Result, tasks: Sequence[int]) -> list[str]:
    """Tell each run of some tasks, in seconds of the timeline."""
    begin = result.began
    wrote = {run for _, run in result.evidence.rows}
    lines = []
    for task in tasks:
        lines.append(f"  task {task}:")
        for run in (run for run in result.evidence.runs if run.task == task):
            end = "never ended" if run.end is None else f"ended {run.end - begin:.2f} {run.how}"
            row = ", row" if run.run in wrote else ""
            lines.append(f"    {run.worker} pid {run.pid} began {run.start - begin:.2f}, {end}{row}")
    return lines


def save(result: Result) -> None:
    """Write all of it into the run's folder."""
    verdict = dataclasses.asdict(result.verdict)
    page = {
        "command": command(result), "line": line(result), "seconds": round(result.seconds, 1), **verdict,
        "why": Counter(why for _, why in result.verdict.repeats), "queued": result.evidence.queued,
        "left": result.evidence.left, "ends": [(name, str(end)) for name, end in result.evidence.ends],
        "story": story(result, [*result.verdict.lost, *result.verdict.unaccounted]),
    }  # fmt: skip
    (result.folder / "result.json").write_text(json.dumps(page, indent=1), encoding="utf-8")


def summary(results: Sequence[Result]) -> str:
    """Return the sum over many runs."""
    verdicts = [result.verdict for result in results]
    tasks = sum(result.plan.tasks for result in results)
    why = Counter(reason.split(" of ")[0] for verdict in verdicts for _, reason in verdict.repeats)
    failed = sum(not verdict.passed for verdict in verdicts)
    faults = sum(len(result.plan.faults) for result in results)
    sums = {
        "lost": sum(len(verdict.lost) for verdict in verdicts),
        "unaccounted repeats": sum(len(verdict.unaccounted) for verdict in verdicts),
        "accounted repeats": sum(len(verdict.repeats) for verdict in verdicts),
        "workers that ended by themselves": sum(verdict.by_themselves for verdict in verdicts),
    }
    lines = [f"{len(results)} seeds, {tasks} tasks, {faults} faults: {failed} failed"]
    lines += [f"  {many:6} {name}" for name, many in sums.items()]
    lines += [f"    {many:6} {reason}" for reason, many in why.most_common()]
    return "\n".join(lines)
