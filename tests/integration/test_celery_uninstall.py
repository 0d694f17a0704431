"""After `uninstall()` the process is what it was before `install()`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from greenkit.testing import run_clean

if TYPE_CHECKING:
    from greenkit.testing import ValkeyServer

PROGRAM = Path(__file__).parent / "programs" / "celery_uninstall.py"
EVERYWHERE = {
    "panel",
    "panel meta",
    "signal celeryd_after_setup",
    "signal worker_init",
    "signal worker_ready",
    "signal worker_shutdown",
    "task uninstall.note",
}
GREEN = {
    "celery.bootsteps.ConsumerStep._close",
    "celery.platforms.signals",
    "signal worker_shutting_down",
    "spawn callback",
    "steps consumer",
}


@pytest.mark.parametrize(("pool", "changes"), [("gevent", EVERYWHERE | GREEN), ("threads", EVERYWHERE)])
def test_uninstall_leaves_nothing(greenkit_valkey: ValkeyServer, pool: str, changes: set[str]) -> None:
    """Of all attributes of Celery's modules, signals, steps, commands and settings none stays changed.

    A worker has run in between, and changed what is listed here; a stock one runs afterwards.
    """
    broker = {"TEST_BROKER": greenkit_valkey.broker_url}
    run = run_clean([str(PROGRAM), pool], env=broker, timeout=120)
    assert run.returncode == 0, run
    assert set(run.json["during"]) == changes
    assert run.json["left"] == []
