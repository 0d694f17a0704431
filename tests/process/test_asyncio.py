"""asyncio in the greenlets of a patched process, each promise in a clean interpreter."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from greenkit.testing import run_clean

PROGRAM = Path(__file__).parent / "programs" / "asyncio_checks.py"
CHECKS = [
    node.name
    for node in ast.parse(PROGRAM.read_text()).body
    if isinstance(node, ast.FunctionDef) and any(getattr(d, "id", "") == "check" for d in node.decorator_list)
]


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-W", "error", str(PROGRAM), *arguments],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("name", CHECKS)
def test_asyncio_holds_in_greenlets(name):
    """What the check's name says is so in a process patched at its first line."""
    done = run("late", name)
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr[-4000:]
    assert done.stderr == ""


@pytest.mark.parametrize(
    "name",
    [
        "many_asyncio_runs_at_once_all_answer",
        "executors_and_names_answer_at_once",
        "set_event_loop_belongs_to_the_greenlet",
        "many_async_to_sync_at_once_all_answer",
    ],
)
def test_asyncio_holds_when_it_was_imported_before_the_patch(name):
    """A library that imported asyncio and ssl first takes nothing away."""
    done = run("early", name)
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr[-4000:]


def test_a_thousand_kills_and_timeouts_leave_nothing_behind():
    """Of sync and async calls ended at random points: no task, socket, thread, greenlet or descriptor."""
    done = run_clean([str(PROGRAM.with_name("aio_kills.py"))], timeout=100)
    assert done.returncode == 0, str(done)
    ended, left = done.json["ended"], done.json["left"]
    assert sum(ended.values()) > 1000, ended
    assert min(ended.values()) > 20, ended
    assert left == dict.fromkeys(left, 0) | {"greenlets": 1}, left  # the loop's own
    assert done.stderr == "", done.stderr
