"""A failed run is told so that it can be understood and run again."""

from __future__ import annotations

from greenkit.testing import ProgramEnd
from tests.faults import report
from tests.faults.__main__ import parser
from tests.faults.driver import Result
from tests.faults.evidence import Blow, Evidence, Run
from tests.faults.judge import judge
from tests.faults.plan import make_plan


def failed(tmp_path, **plan):
    """A run of two tasks: one lost, one with two rows and no reason, and a worker that ended by itself."""
    (tmp_path / "timeline.txt").write_text("   1.00 broker-cut broker\n")
    evidence = Evidence(
        tasks=2, rows=[(0, "a"), (0, "b")], blows=[Blow("broker-cut", "broker", 101.0, 101.0)],
        runs=[
            Run(0, "a", "w1", 11, 110.0, row=110.5, end=111.0, how="done"),
            Run(0, "b", "w2", 12, 120.0, row=121.0, end=121.0, how="done"),
            Run(1, "c", "w2", 12, 130.0),
        ],
        ends=[("w2", ProgramEnd(12, 1, ""))],
    )  # fmt: skip
    made = make_plan(7, **{"broker": "redis", "tasks": 2, "seconds": 10.0, **plan})
    return Result(made, evidence, judge(evidence), 42.0, tmp_path, {"w1": (100, 20)}, 100.0)


def test_a_failure_shows_seed_runs_and_timeline(tmp_path):
    """The complaints, the runs of the tasks concerned, the timeline, and how to run it again."""
    told = report.failure(failed(tmp_path))
    for words in (
        "redis seed 7", "FAILED", "lost: 1 tasks have no row: 1", "repeated: 1 tasks",
        "ended by itself with status 1", "w1 pid 11 began 10.00, ended 11.00 done, row",
        "w2 pid 12 began 30.00, never ended",
        "1.00 broker-cut broker", "./dev chaos --broker redis --first-seed 7 --seeds 1 --tasks 2",
    ):  # fmt: skip
        assert words in told, words


def test_the_command_runs_the_same_plan_again(tmp_path):
    """Whatever was not as usual is in it."""
    given = {"visibility": 12.0, "concurrency": 30, "plain": True, "mode": "call", "only": ("broker-cut",)}
    result = failed(tmp_path, **given)
    options = parser().parse_args(report.command(result).split()[2:])
    again = make_plan(
        options.first_seed, broker=options.broker, tasks=options.tasks, seconds=options.seconds,
        mode=options.mode, only=tuple(options.only), plain=options.plain, visibility=options.visibility,
        concurrency=options.concurrency,
    )  # fmt: skip
    assert again == result.plan


def test_results_are_summed_and_saved(tmp_path):
    """Over many runs, by their numbers; a file has it all."""
    result = failed(tmp_path)
    told = report.summary([result, result])
    assert "2 seeds, 4 tasks" in told
    assert "2 failed" in told
    assert "2 lost" in told
    report.save(result)
    assert '"lost": [\n  1\n ]' in (tmp_path / "result.json").read_text()
