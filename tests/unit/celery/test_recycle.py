"""When a worker has run long enough."""

from __future__ import annotations

import pytest

from greenkit.celery import _recycle
from greenkit.celery._recycle import Recycler

MIB = 1 << 20


def test_a_fleet_does_not_restart_at_once() -> None:
    """Each worker draws its own limit, never below what was asked and at most a fifth above."""
    limits = {Recycler(1000, None).most_tasks for _ in range(50)}
    assert len(limits) > 10
    assert all(1000 <= limit <= 1200 for limit in limits if limit is not None)


def test_so_many_tasks_are_enough() -> None:
    """Not before, and then for a reason that carries the numbers."""
    recycler = Recycler(10, None)
    assert recycler.most_tasks is not None
    assert recycler.due(recycler.most_tasks - 1) == ""
    assert str(recycler.most_tasks) in recycler.due(recycler.most_tasks)


def test_memory_counts_when_it_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peak, or a worker that has just started, is no reason; three looks in a row are."""
    now, resident = [0.0], [0]
    monkeypatch.setattr(_recycle, "monotonic", lambda: now[0])
    monkeypatch.setattr(_recycle, "_resident", lambda: resident[0])
    recycler = Recycler(None, 100 * MIB)

    def look(mib: int, later: float) -> str:
        now[0] += later
        resident[0] = mib * MIB
        return recycler.due(0)

    assert [look(500, 2.0) for _ in range(4)] == [""] * 4, "it restarts before it has done anything"
    assert look(50, 60.0) == ""
    assert [look(500, 2.0), look(500, 0.1), look(500, 2.0)] == ["", "", ""], "a peak restarts it"
    assert "500 MiB" in look(500, 2.0)
