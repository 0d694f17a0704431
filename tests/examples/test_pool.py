"""The pool's example, run as its user runs it: a command that fans out, stopped and gone on with."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from greenkit.testing import PostgresServer

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "pool"
PATIENCE = 100.0


def start(*words, **env):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GREENKIT", "PG"))}
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=EXAMPLE,
        env={**kept, "PYTHONUNBUFFERED": "1", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # as a terminal gives it one
    )


@pytest.mark.parametrize("bar", ["tqdm", "rich", "none"])
def test_every_ticket_is_labelled_once(bar):
    """One call per ticket, none left, with either progress bar."""
    pytest.importorskip("tqdm")
    run = start("demo.py", "--rows", "300", "--latency", "0.05", "--bar", bar)
    out, err = run.communicate(timeout=PATIENCE)
    assert run.returncode == 0, out + err
    assert "0 tickets are left" in out
    assert "300 calls for 300 tickets" in out
    assert ("300/300" in out) == (bar != "none"), out


def test_ctrl_c_saves_what_was_answered_and_the_next_run_goes_on():
    """Stopped in the middle it keeps what it has; only calls that were under way are made twice."""
    pytest.importorskip("tqdm")
    run = start("demo.py", "--rows", "600", "--latency", "0.2", "--concurrency", "50", "--rate", "200/s")
    said = ""
    while not re.search(r" [1-4][0-9][0-9]/600", said):
        piece = run.stdout.read(1)
        assert piece, f"it ended before it was stopped:\n{said}\n{run.stderr.read()}"
        said += piece
    os.killpg(run.pid, signal.SIGINT)
    out, err = run.communicate(timeout=PATIENCE)
    out = said + out
    assert run.returncode == 0, out + err
    assert "label.py" not in err, err
    [left] = re.findall(r"stopped, (\d+) tickets are left", out)
    assert 0 < int(left) < 600
    assert "\n0 tickets are left" in out
    [calls] = re.findall(r"(\d+) calls for 600 tickets", out)
    assert 600 <= int(calls) <= 600 + 50


def test_a_model_that_is_down_costs_no_ticket():
    """Every call fails; a few lines and the exit code say so, and all tickets are left."""
    pytest.importorskip("tqdm")
    with PostgresServer(own=True) as postgres:
        there = postgres.parameters
        env = {"PGHOST": there["host"], "PGPORT": there["port"], "PGUSER": there["user"]}
        for words in (("migrate", "-v0"), ("fill", "30"), ("label", "--bar", "none")):
            run = start("manage.py", *words, LLM_URL="http://127.0.0.1:1", **env)
            out, err = run.communicate(timeout=PATIENCE)
    assert run.returncode == 1, out + err
    assert "30 calls failed; 30 tickets are left" in err
    assert err.count("Connection refused") == 3, err


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [("--rate", "500 per fortnight", "a period"), ("--concurrency", "0", "at least 1")],
)
def test_a_wrong_setting_is_named_without_a_traceback(option, value, said):
    """What cannot be is one message and the exit code 1, before anything is called."""
    pytest.importorskip("tqdm")
    run = start("manage.py", "label", option, value, LLM_URL="http://127.0.0.1:1", PGHOST="127.0.0.1")
    out, err = run.communicate(timeout=PATIENCE)
    assert run.returncode == 1, out + err
    assert said in err
    assert "Traceback" not in err
