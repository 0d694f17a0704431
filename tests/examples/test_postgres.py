"""The Postgres example, run as its README says, says what its README shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from greenkit.testing import run_clean

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "postgres"


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_the_worker_prints_what_the_readme_shows(greenkit_postgres, driver: str) -> None:
    """Ten connections for 500 greenlets, no query left running, rows both ways, each note a task."""
    shown = re.search(r"```text\n(.*?)```", (EXAMPLE / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    run = run_clean([str(EXAMPLE / "worker.py"), driver], timeout=90)
    assert run.returncode == 0, str(run)
    assert run.stdout == shown[1].replace("driver: psycopg2", f"driver: {driver}")
