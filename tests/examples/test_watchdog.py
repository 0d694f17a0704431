"""The example of a task that blocks, run as it stands; what it prints is what its README shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from greenkit.testing import run_clean

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "watchdog"


def plain(text: str) -> list[str]:
    """Return the lines without what differs from run to run."""
    text = re.sub(r"\d+\.\d+ s", "N s", text)
    text = re.sub(r":\d+ price_list", ":N price_list", text)
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", text)
    # The greenlet is looked for when a block is recognised, which a busy machine may miss.
    return re.sub(r", greenlet <[^>]*>", "", text).strip().splitlines()


def test_the_readme_shows_what_happens() -> None:
    """Both tasks that hold the worker up are named, with line, call and task; the others are not."""
    run = run_clean(["run.py"], cwd=str(EXAMPLE), timeout=110)
    assert run.returncode == 0, run
    shown = re.search(r"```text\n(.*?)```", (EXAMPLE / "README.md").read_text(), re.DOTALL)
    assert shown is not None
    assert plain(run.stdout) == plain(shown[1]), run


def test_the_worker_ends_with_its_example() -> None:
    """Nothing is left running when the example was interrupted."""
    with subprocess.Popen(
        [sys.executable, "run.py"], cwd=EXAMPLE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "call_an_api: done\n"
        workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.send_signal(2)
        process.wait(60)
    assert len(workers) >= 2
    assert not any(Path("/proc", one).exists() for one in workers)
