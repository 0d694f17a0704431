from __future__ import annotations

import pytest

from greenkit.cli._celery import with_pool


@pytest.mark.parametrize(
    ("given", "run"),
    [
        ("-A proj worker", "-A proj worker --pool=gevent"),
        ("-A worker worker -l info", "-A worker worker --pool=gevent -l info"),
        ("-A proj worker -P solo", "-A proj worker -P solo"),
        ("-A proj worker -Pgevent", "-A proj worker -Pgevent"),
        ("-A proj beat", "-A proj beat"),
        ("", ""),
    ],
)
def test_a_worker_without_a_pool_gets_gevents(given, run, monkeypatch):
    """Only a worker that names no pool is given one; nothing else is touched."""
    monkeypatch.delenv("CELERY_WORKER_POOL", raising=False)
    assert with_pool(given.split()) == run.split()


def test_a_pool_from_the_environment_is_kept(monkeypatch):
    """`CELERY_WORKER_POOL` is a pool named by the user."""
    monkeypatch.setenv("CELERY_WORKER_POOL", "threads")
    assert with_pool(["worker"]) == ["worker"]
