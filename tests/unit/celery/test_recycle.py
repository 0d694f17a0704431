"""When a worker has run long enough."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from greenkit.celery import _recycle
from greenkit.celery._recycle import Recycler

if TYPE_CHECKING:
    from collections.abc import Callable

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


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch) -> Callable[[Recycler, int, float], str]:
    """Give a function that lets seconds pass, sets the resident MiB and asks."""
    now, resident = [0.0], [0]
    monkeypatch.setattr(_recycle, "monotonic", lambda: now[0])
    monkeypatch.setattr(_recycle, "_resident", lambda: resident[0])

    def ask(recycler: Recycler, mib: int, later: float) -> str:
        now[0] += later
        resident[0] = mib * MIB
        return recycler.due(0)

    return ask


def looks_until_due(recycler: Recycler, look: Callable[[Recycler, int, float], str]) -> int:
    return next(number for number in range(1, 100) if look(recycler, 500, 2.0))


def test_memory_counts_when_it_stays(look: Callable[[Recycler, int, float], str]) -> None:
    """A peak, or a worker that has just started, is no reason; so many looks in a row are."""
    recycler = Recycler(None, 100 * MIB)
    assert [look(recycler, 500, 2.0) for _ in range(14)] == [""] * 14, "it restarts before it has worked"
    assert look(recycler, 50, 60.0) == ""
    assert [look(recycler, 500, 2.0), look(recycler, 500, 0.1)] == ["", ""]
    assert look(recycler, 50, 2.0) == "", "a peak restarts it"
    assert 3 <= looks_until_due(recycler, look) <= 15
    assert "500 MiB" in look(recycler, 500, 2.0)


def test_workers_that_grew_at_one_blow_do_not_restart_at_once(
    look: Callable[[Recycler, int, float], str],
) -> None:
    """Each bears to be over its limit for another time, whether it is young or old."""
    old = [Recycler(None, 100 * MIB) for _ in range(50)]
    look(old[0], 50, 600.0)
    assert len({looks_until_due(recycler, look) for recycler in old}) > 8
    young = [looks_until_due(Recycler(None, 100 * MIB), look) for _ in range(50)]
    assert all(15 <= looks <= 31 for looks in young), "30 to 60 s, a look each 2 s"
    assert len(set(young)) > 8
