"""The examples of the Celery room, run as their README says, at a smaller size."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(example: str, *arguments: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GREENKIT", "CELERY"))}
    done = subprocess.run(
        [sys.executable, "run.py", *arguments], cwd=EXAMPLES / example, env=kept, capture_output=True,
        text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def promised(example: str) -> str:
    return (EXAMPLES / example / "README.md").read_text().split("```text\n")[1].split("```")[0]


def test_celery_hooks() -> None:
    """Its output is the README's, line by line."""
    assert run("celery_hooks") == promised("celery_hooks")


def test_brokers() -> None:
    """Each mail once, over Valkey and over files."""
    for broker in ("valkey", "filesystem"):
        assert run("brokers", broker).split()[:6] == [broker, "100", "of", "100", "sent,", "0"]


def test_choose_a_pool() -> None:
    """It draws a row for each pool and the asyncio twin, for both jobs."""
    out = run("choose_a_pool", "--calls", "40", "--slots", "20", "--pools", "threads,eventlet,gevent")
    assert [line.split(",")[0].split()[0] for line in out.splitlines() if line.startswith("  ")] == [
        "threads", "eventlet", "gevent", "asyncio", "threads", "eventlet", "gevent",
    ]  # fmt: skip
