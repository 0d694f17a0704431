"""install() in a process that lacks a part of what a worker needs."""

from __future__ import annotations

import sys

import pytest
from celery import Celery, signals

from greenkit.celery import install, uninstall


class Worker:
    """As much of a worker as signals need."""

    app: Celery


def test_a_part_that_cannot_be_imported_refuses_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Celery swallows what a receiver raises, and would run the worker on its own pool without a word."""
    app = Celery("broken", broker="memory://")
    worker = Worker()
    worker.app = app
    install(app)
    monkeypatch.setitem(sys.modules, "greenkit.celery._worker", None)
    try:
        with pytest.raises(SystemExit, match=r"cannot be imported.*_worker"):
            signals.worker_init.send(sender=worker)
    finally:
        uninstall(app)
