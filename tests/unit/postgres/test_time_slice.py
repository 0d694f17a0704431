"""Giving way in the middle of work that never waits."""

from __future__ import annotations

import os
from contextlib import closing

import gevent
from gevent.monkey import get_original

from greenkit.postgres import _time_slice
from greenkit.wait import FdWatch

close = get_original("os", "close")


def looks_during(pass_on) -> int:
    """Return how often a bystander's descriptor is looked at in 40 turns; fewer than gevent's 50."""
    reader, writer = os.pipe()
    os.write(writer, b"x")  # never read: it is ready at every look
    seen = 0

    def bystander() -> None:
        nonlocal seen
        with closing(FdWatch(reader)) as watch:
            while True:
                watch.wait_read(5.0)
                seen += 1

    one = gevent.spawn(bystander)
    for _ in range(40):
        pass_on()
    one.kill()
    close(reader)
    close(writer)
    return seen


def test_giving_way_lets_descriptors_be_looked_at(monkeypatch) -> None:
    """In each turn the hub looks at everybody's socket, not only at what is ready to run."""
    monkeypatch.setattr(_time_slice, "_LENGTH", -1.0)
    assert looks_during(_time_slice.TimeSlice().pass_on) >= 35


def test_a_sleep_of_nothing_does_not() -> None:
    """What COPY did before: the hub came round to the descriptor once or twice."""
    assert looks_during(lambda: gevent.sleep(0)) < 10
