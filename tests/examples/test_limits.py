"""The example of limits, run as its README says, with the output it shows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "limits"


@pytest.mark.timeout(300)
def test_the_example_prints_what_its_readme_shows():
    """No call is rejected, by one worker or three, and each user has three."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", EXAMPLE / "run.py"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    shown = (EXAMPLE / "README.md").read_text(encoding="utf-8").split("```text\n")[1].split("```")[0]
    assert [line.strip() for line in done.stdout.splitlines()] == shown.splitlines(), done.stderr
