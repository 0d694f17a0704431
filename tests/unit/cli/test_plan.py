"""What `greenkit plan` says, beside a simulation of the load it was told."""

from __future__ import annotations

import heapq
import json
import os
import random
import subprocess
import sys

import pytest

from greenkit.cli import main
from greenkit.cli._plan import Load, make_plan


def share_that_waits(rate: float, seconds: float, servers: int, arrivals: int = 20_000) -> float:
    """Return the share of a Poisson stream that finds all servers busy; each is held for `seconds`."""
    rng, now, waited = random.Random(3), 0.0, 0
    free = [0.0] * servers
    for _ in range(arrivals):
        now += rng.expovariate(rate)
        begin = max(now, heapq.heappop(free))
        waited += begin > now
        heapq.heappush(free, begin + seconds)
    return waited / arrivals


@pytest.mark.parametrize(
    "load", [Load(50, 8.0), Load(5, 2.0), Load(200, 0.5), Load(1, 30.0), Load(1000, 1.0, workers=8)]
)
def test_slots_suffice_for_a_random_stream(load: Load) -> None:
    """Few arrivals wait for a slot, and few slots stand idle."""
    made = make_plan(load)
    slots = made.slots * made.workers
    assert share_that_waits(load.rps, load.latency + load.db_ms / 1000, slots) < 0.08
    assert slots < made.in_flight + 3 * made.in_flight**0.5 + made.workers


@pytest.mark.parametrize("load", [Load(50, 8.0, workers=1), Load(400, 1.0, db_ms=100, workers=1)])
def test_connections_suffice_for_a_random_stream(load: Load) -> None:
    """They are held for the database's part only."""
    made = make_plan(load)
    assert share_that_waits(load.rps, load.db_ms / 1000, made.connections) < 0.2
    assert made.connections < load.rps * load.latency


def test_a_load_is_planned_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """The numbers of the command line come out with formulas and lines to paste."""
    words = ["plan", "--rps", "50", "--latency", "8", "--db-ms", "20", "--tokens", "900", "--workers", "2"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "401 tasks" in said
    assert "celery -A proj worker -P gevent -c 221        # 2 of them" in said
    assert '{"pool": {"max_size": 2}}' in said
    assert 'requests="3000/min", tokens="2700000/min burst 45000", share=' in said
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["slots"] == 221


def test_what_does_not_fit_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """Too little CPU and too many connections are warnings, with what to do, and status 1."""
    words = ["plan", "--rps", "1000", "--latency", "1", "--db-ms", "200", "--cpu-ms", "3", "--workers", "2"]
    assert main(words) == 1
    said = capsys.readouterr().out
    assert "Take 5 workers" in said
    assert "max_connections=100" in said


@pytest.mark.parametrize("words", ["--rps 0 --latency 1", "--rps 1 --latency inf", "--rps -1 --latency 1"])
def test_a_number_that_means_nothing_is_an_error(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2, and which number."""
    assert main(["plan", *words.split()]) == 2
    assert "must be more than 0" in capsys.readouterr().out


def test_a_reader_that_leaves_is_no_traceback() -> None:
    """`greenkit plan … | head -1`: status 141, as of a program that SIGPIPE ended, and nothing on stderr."""
    argv = [sys.executable, "-m", "greenkit", "plan", "--rps", "50", "--latency", "8"]
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(argv, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")
