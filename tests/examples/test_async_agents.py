"""The example with async agents, run as its README says, at a smaller size."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "async_agents"

pytest.importorskip("openai")
pytest.importorskip("channels_redis")


def without_times(text: str) -> list[str]:
    return re.sub(r", \d+\.\d s", "", text).splitlines()


def test_async_agents() -> None:
    """All agents answer once in both ways, and those out of time leave no coroutine behind."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GREENKIT", "PG"))}
    done = subprocess.run(
        [sys.executable, "run.py", "--count", "30"], cwd=EXAMPLE, env=kept, capture_output=True, text=True,
        timeout=150, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    promised = (EXAMPLE / "README.md").read_text().split("```text\n")[1].split("```")[0]
    expected = promised.replace("300 calls", "90 calls").replace("100 ", "30 ")
    assert without_times(done.stdout) == without_times(expected)
