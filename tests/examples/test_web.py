"""The example of a web process that waits: asked, streamed from, left and stopped as its README shows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "web"


def test_the_example_prints_what_its_readme_shows() -> None:
    """One quota for requests and tasks; a client that leaves frees its permit; a stop lets streams end."""
    pytest.importorskip("gunicorn")
    dropped = ("GREENKIT", "CELERY", "GUNICORN")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", EXAMPLE / "run.py"],
        env=kept, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    shown = (EXAMPLE / "README.md").read_text().split("```text\n")[1].split("```")[0]
    assert done.stdout == shown, done.stdout + done.stderr
