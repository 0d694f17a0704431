"""How far ahead a shared store books, by who shares it and how fast it is."""

from __future__ import annotations

import pytest

from greenkit.limits._protocol import MICRO, Item, Request, exchange


def horizon(*, workers, rate, size=0, cost=1.0):
    """Return the horizon (seconds) once so many workers have asked for a while."""
    record, now = {}, 1e12
    reply = None
    for turn in range(60 * workers):
        now += MICRO / rate
        request = Request(
            worker=f"w{turn % workers}",
            names=("requests",),
            intervals=(MICRO / rate,),
            bursts=(10.0,),
            seen=0,
            floors=(0.0,),
            deltas=(0.0,),
            left=(-1.0,),
            shares=(-1.0,),
            size=size,
            items=(Item((cost,), ahead=True),),
        )
        reply = exchange(record, request, now)
    return reply.horizon / MICRO


@pytest.mark.parametrize(
    ("workers", "rate", "expected"),
    [(1, 500, 0.25), (2, 200, 0.25), (8, 200, 0.8), (2, 40, 1.0), (30, 10_000, 0.25)],
)
def test_each_process_gets_some_twenty_at_once(workers, rate, expected):
    """Between a quarter of a second and one, however many share however slow a rate."""
    assert horizon(workers=workers, rate=rate) == pytest.approx(expected, rel=0.01)


def test_what_a_grant_takes_counts_and_not_how_many_there_are():
    """Calls of ten units are a tenth as many."""
    assert horizon(workers=2, rate=1000, cost=10.0) == pytest.approx(0.4, rel=0.01)


def test_slots_are_not_kept_from_others_for_long():
    """With slots to give away the horizon stays short."""
    assert horizon(workers=8, rate=200, size=100) == 0.25
