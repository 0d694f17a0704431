"""The example with the real SDK, run as its user runs it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "openai_batch"

pytest.importorskip("openai")


def environment():
    return {name: value for name, value in os.environ.items() if not name.startswith(("GREENKIT", "PG"))}


def demo(*words):
    done = subprocess.run(
        [sys.executable, "demo.py", *words],
        cwd=EXAMPLE,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


def test_each_way_answers_every_question_once():
    """SDK, stream and requests: one call per question and no 429.

    The model allows 15 more at once than the limiter asks for: what a neighbour holds up arrives together.
    """
    said = demo("--count", "40", "--latency", "0.1", "--rate", "100/s burst 20", "--believed", "100/s")
    assert re.findall(r"(\w+) +40 answers", said) == ["sdk", "stream", "requests"]
    assert said.count("40 calls, 0 of them 429") == 3


@pytest.mark.parametrize("way", ["sdk", "requests"])
def test_a_limiter_that_was_told_too_much_loses_nothing(way):
    """Long 429s send tasks back to the broker, and every question is answered in the end."""
    said = demo(
        "--way", way, "--count", "24", "--rate", "1/s burst 20", "--believed", "100/s", "--latency", "0.1"
    )
    assert "24 answers" in said
    [calls, refused] = map(int, re.search(r"(\d+) calls, (\d+) of them 429", said).groups())
    assert refused > 0, "it was not refused: nothing was shown"
    assert calls - refused == 24


def started(*words):
    """Start the example with 500 questions for the SDK, in a session of its own, as a terminal does."""
    return subprocess.Popen(
        [sys.executable, "demo.py", "--way", "sdk", "--count", "500", *words],
        cwd=EXAMPLE,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def read_until(run, pattern):
    """Return what it prints up to `pattern`."""
    said = ""
    while not re.search(pattern, said):
        piece = run.stdout.read(1)
        assert piece, f"it ended before it was stopped:\n{said}\n{run.stderr.read()}"
        said += piece
    return said


def test_ctrl_c_keeps_what_was_answered_and_the_next_worker_goes_on():
    """Stopped half-way, the worker ends what it began, the broker has the rest, and no call is made twice."""
    run = started("--rate", "60/s burst 20", "--believed", "60/s", "--latency", "0.2")
    said = read_until(run, r" [4-9][0-9]/500")
    os.killpg(run.pid, signal.SIGINT)
    out, err = run.communicate(timeout=110)
    said += out
    assert run.returncode == 0, said + err
    assert "Traceback" not in err, err
    [missing] = re.findall(r"stopped watching, (\d+) answers are missing", said)
    [left] = re.findall(r"sdk +(\d+) answers in", said)
    assert 0 < int(left) < int(missing) < 500, said
    assert "500 calls, 0 of them 429" in said


def test_a_second_ctrl_c_does_not_wait_for_what_runs():
    """A second Ctrl-C drops what the worker still runs: no traceback, and the rest is answered."""
    run = started("--rate", "200/s", "--latency", "5")  # 200 are begun, and none is answered for 5 s
    said = read_until(run, r" [1-9][0-9]*/500")
    os.killpg(run.pid, signal.SIGINT)
    said += read_until(run, r"answers are missing")
    os.killpg(run.pid, signal.SIGINT)
    out, err = run.communicate(timeout=110)
    said += out
    assert run.returncode == 0, said + err
    assert "Traceback" not in err, err
    assert re.search(r"sdk +[1-9]\d* answers in", said), said


def test_progress_in_a_pipe_is_lines():
    """A line that is written over is for terminals; a log gets a line of its own each time."""
    said = demo("--way", "sdk", "--count", "40", "--latency", "0.1", "--rate", "40/s burst 40")
    assert "\r" not in said
    assert re.search(r"^sdk +\d+/40$", said, re.MULTILINE), said
