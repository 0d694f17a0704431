"""The judge turns red on each broken promise, and on nothing else."""

from __future__ import annotations

import dataclasses

import pytest

from greenkit.testing import ProgramEnd
from tests.faults.evidence import Blow, Evidence, Run, Sample, read_runs
from tests.faults.judge import judge

KILL = Blow("worker-kill", "w1", 100.0, 100.1, pid=11)
STOP = Blow("worker-replace", "w1", 100.0, 103.0, pid=11)
CUT = Blow("broker-cut", "broker", 100.0, 100.5)
PAUSE = Blow("broker-pause", "broker", 100.0, 104.0)


def ran(task, start, end, *, pid=11, how="done"):
    """One run of a task that wrote its row; its number is the task's and its start."""
    return Run(task, f"{task}@{start}", "w1" if pid == 11 else "w2", pid, start, row=end, end=end, how=how)


def seen(*runs, tasks=1, **more):
    """Evidence of runs that each wrote a row."""
    return Evidence(tasks=tasks, rows=[(run.task, run.run) for run in runs], runs=list(runs), **more)


def red(evidence, words):
    """Return the verdict, which must complain once and with these words."""
    verdict = judge(evidence)
    assert len(verdict.complaints) == 1, verdict.complaints
    assert words in verdict.complaints[0]
    return verdict


def test_a_sound_run_passes():
    """One row each, stopped workers ended with 0, nothing left, connections within their bound."""
    verdict = judge(
        seen(
            ran(0, 1.0, 2.0), ran(1, 1.5, 2.5), tasks=2, blows=[KILL, CUT],
            ends=[("w1", ProgramEnd(11, -9, "kill")), ("w2", ProgramEnd(12, 0, "stop"))],
            queued={"messages": 0}, left={"connections": 0}, connections=4, samples=[Sample(5.0, "w1-1", 4)],
        )
    )  # fmt: skip
    assert verdict.passed
    assert (verdict.lost, verdict.repeats, verdict.unaccounted, verdict.peak) == ([], [], [], 4)


def test_a_lost_row_is_seen():
    """A task without a row is named, whether it ran or not."""
    evidence = seen(ran(0, 1.0, 2.0), tasks=3)
    evidence.runs.append(Run(2, "x", "w1", 11, 1.0, end=2.0, how="database: OperationalError"))
    assert red(evidence, "lost: 2 tasks have no row: 1, 2").lost == [1, 2]


def test_a_row_nobody_sent_is_seen():
    """A row of a task that does not exist."""
    red(seen(ran(0, 1.0, 2.0), ran(7, 1.0, 2.0)), "never sent: 7")


@pytest.mark.parametrize(
    ("first", "blow"),
    [
        (ran(0, 99.0, 100.05), KILL),
        (Run(0, "0@99.0", "w1", 11, 99.0, row=99.9), KILL),
        (ran(0, 98.0, 99.5), KILL),  # its acknowledgement died with the worker
        (ran(0, 99.0, 99.8), CUT),
        (ran(0, 99.0, 105.0), CUT),
        (ran(0, 101.0, 102.0), CUT),  # taken from a connection that was dead already
        (ran(0, 99.0, 102.0, how="interrupted"), STOP),
        (Run(0, "0@99.0", "w1", 11, 99.0, row=99.9), STOP),
    ],
)
def test_a_repeat_of_what_was_struck_has_its_reason(first, blow):
    """Whoever ran at a kill, at a cut or at the end of a drain may run once more, and is named."""
    verdict = judge(seen(first, ran(0, 130.0, 131.0, pid=12), blows=[blow]))
    assert verdict.passed, verdict.complaints
    assert [task for task, _ in verdict.repeats] == [0]
    assert blow.target in verdict.repeats[0][1] or blow.kind in verdict.repeats[0][1]


@pytest.mark.parametrize(
    ("first", "blows"),
    [
        (ran(0, 99.0, 100.05), []),
        (ran(0, 90.0, 98.5), [KILL]),  # had ended, and its acknowledgement had its time
        (ran(0, 101.0, 102.0), [KILL]),
        (ran(0, 99.0, 101.0, pid=12), [KILL]),  # the other worker was killed
        (ran(0, 99.0, 101.0), [dataclasses.replace(KILL, kind="worker-freeze")]),
        (ran(0, 90.0, 98.5), [CUT]),
        (ran(0, 103.0, 104.0), [CUT]),
        (ran(0, 99.0, 105.0), [PAUSE]),  # a pause cuts nothing
        (ran(0, 99.0, 105.0), [dataclasses.replace(CUT, target="limiter", kind="limiter-cut")]),
        (ran(0, 99.0, 101.0), [STOP]),  # ended by itself while the worker drained
        (ran(0, 99.0, 102.0, how="interrupted"), [dataclasses.replace(STOP, pid=13)]),
    ],
)
def test_an_unaccounted_repeat_is_seen(first, blows):
    """A second row of a task that nothing struck."""
    verdict = red(seen(first, ran(0, 130.0, 131.0, pid=12), blows=blows), "more rows than runs")
    assert verdict.unaccounted == [0]


def test_each_row_more_needs_a_reason_of_its_own():
    """Three rows and one run that was struck: one of them is unaccounted."""
    first, again, more = ran(0, 99.0, 100.0), ran(0, 130.0, 131.0, pid=12), ran(0, 140.0, 141.0, pid=12)
    verdict = red(seen(first, again, more, blows=[KILL]), "repeated: 1 tasks")
    assert len(verdict.repeats) == 1
    assert judge(
        seen(first, again, more, blows=[KILL, dataclasses.replace(CUT, begin=130.5, end=130.6)])
    ).passed


def test_the_run_that_was_struck_need_not_have_a_row():
    """Its message came back, and so did the retry it had sent: two rows, one reason."""
    retried = Run(0, "r", "w1", 11, 99.0, end=99.9, how="http: 500")
    evidence = seen(ran(0, 101.0, 102.0, pid=12), ran(0, 130.0, 131.0, pid=12), blows=[KILL])
    evidence.runs.append(retried)
    assert judge(evidence).passed


def test_an_answer_lost_by_postgres_is_a_reason_only_with_its_row():
    """A run that failed at its INSERT and wrote its row all the same; not one that wrote none."""
    failed = ran(0, 99.0, 100.0, how="database: OperationalError")
    again = ran(0, 130.0, 131.0)
    assert judge(seen(failed, again)).repeats == [
        (0, "its row was written, and the answer of Postgres was lost")
    ]
    evidence = seen(again, ran(0, 140.0, 141.0))
    evidence.runs.append(failed)
    red(evidence, "repeated: 1 tasks")


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (ProgramEnd(11, 1, ""), "w1 (pid 11) ended by itself with status 1"),
        (ProgramEnd(11, 0, ""), "ended by itself with status 0"),
        (ProgramEnd(11, -9, "stop", forced=True), "did not stop when told to"),
        (ProgramEnd(11, 1, "stop"), "was stopped and ended with 1"),
        (ProgramEnd(11, -15, "stop"), "was stopped and ended with -15"),
        (ProgramEnd(11, 0, "stop", left=2), "left 2 processes behind"),
    ],
)
def test_a_worker_that_ends_wrongly_is_seen(end, words):
    """By itself, not at all, with a status, or with children left."""
    verdict = red(seen(ran(0, 1.0, 2.0), ends=[("w1", end)]), words)
    assert verdict.by_themselves == end.by_itself


def test_a_killed_worker_is_no_complaint():
    """Its status is the signal's; so is that of one that was stopped before it had begun to work."""
    assert judge(seen(ran(0, 1.0, 2.0, pid=12), ends=[("w1", ProgramEnd(11, -15, "stop"))])).passed
    assert judge(seen(ran(0, 1.0, 2.0), ends=[("w1", ProgramEnd(11, -9, "kill"))])).passed


def test_what_is_left_is_seen():
    """In the queue, in unacked, and after the stop."""
    red(seen(ran(0, 1.0, 2.0), queued={"messages in unacked": 2, "messages": 0}), "2 messages in unacked")
    red(seen(ran(0, 1.0, 2.0), left={"connections to Postgres": 1}), "left behind: 1 connections to Postgres")


def test_a_connection_too_many_is_seen():
    """Per life of a worker, and not while Postgres or its network is at fault."""
    samples = [Sample(50.0, "w1-1", 4), Sample(50.5, "w1-1", 5), Sample(50.5, "w1-2", 4)]
    evidence = seen(ran(0, 1.0, 2.0), samples=samples, connections=4)
    assert red(evidence, "w1-1 had 5 connections, its bound is 4").peak == 5
    evidence.blows = [Blow("postgres-pause", "postgres", 45.0, 46.0)]
    assert judge(evidence).passed
    evidence.blows = [Blow("limiter-pause", "limiter", 45.0, 46.0)]
    red(evidence, "w1-1")
    evidence.connections = 0
    assert judge(evidence).passed


def test_a_rig_that_failed_is_no_pass():
    """What it could not do is a complaint: such a run proves nothing."""
    red(seen(ran(0, 1.0, 2.0), failures=["broker-kill: OSError: x"]), "the rig failed: broker-kill")


def test_a_run_log_is_read_as_far_as_it_was_written():
    """Starts, rows and ends belong to their runs; a line cut short by a kill is passed over."""
    lines = [
        '{"at": 2.0, "worker": "w2", "pid": 12, "run": "b", "what": "start", "task": 5, "more": ""}',
        '{"at": 1.0, "worker": "w1", "pid": 11, "run": "a", "what": "start", "task": 4, "more": ""}',
        '{"at": 1.5, "worker": "w1", "pid": 11, "run": "a", "what": "row", "task": 4, "more": ""}',
        '{"at": 1.6, "worker": "w1", "pid": 11, "run": "a", "what": "end", "task": 4, "more": "done"}',
        '{"at": 2.5, "worker": "w2", "pi',
    ]
    assert read_runs(lines) == [
        Run(4, "a", "w1", 11, 1.0, row=1.5, end=1.6, how="done"),
        Run(5, "b", "w2", 12, 2.0),
    ]
