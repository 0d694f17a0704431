"""A crowd of calls shares the hub: in order, some milliseconds per round, whoever is killed."""

from __future__ import annotations

from collections import Counter
from typing import Any

import gevent
import pytest

from greenkit.http import _fair_hub
from greenkit.http._fair_hub import yield_if_due
from greenkit.testing import FakeClock, assert_no_switch

WORK = 0.002  # seconds each of the crowd keeps the hub: three of them fill a round


class World:
    """A hub whose rounds are counted, and a clock that moves only when somebody works."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.round = 0
        self.done: list[tuple[int, int]] = []  # (number, round)
        self._watcher: Any = gevent.get_hub().loop.check()
        self._watcher.start(self._count)

    def work(self, number: int) -> None:
        yield_if_due()
        self.clock.advance(WORK)
        self.done.append((number, self.round))

    def crowd(self, size: int) -> list[gevent.Greenlet]:
        return [gevent.spawn(self.work, number) for number in range(size)]

    def fullest_round(self) -> int:
        return max(Counter(when for _, when in self.done).values())

    def close(self) -> None:
        self._watcher.stop()
        self._watcher.close()

    def _count(self) -> None:
        self.round += 1


@pytest.fixture
def world(monkeypatch):
    gevent.idle()  # the rounds of an earlier test are over
    world = World()
    monkeypatch.setattr(_fair_hub, "MONOTONIC", world.clock)
    yield world
    world.close()


def test_a_crowd_goes_a_few_at_a_time(world):
    """No round of the hub is kept longer than its budget and one more call, and all go in order."""
    gevent.joinall(world.crowd(40), raise_error=True)
    assert [number for number, _ in world.done] == list(range(40))
    assert world.fullest_round() <= 4


def test_without_a_budget_the_crowd_goes_at_once(world, monkeypatch):
    """The bad moment the budget is for: forty calls in one or two rounds."""
    monkeypatch.setattr(_fair_hub, "_BUDGET", 100.0)
    gevent.joinall(world.crowd(40), raise_error=True)
    assert world.fullest_round() >= 20


def test_the_killed_hold_nobody_up(world):
    """Those killed while they wait are passed over; everybody else has its turn."""
    crowd = world.crowd(40)
    crowd[-1].join(timeout=0)  # one look at the hub: all have asked
    victims = [one for one in crowd if not one.dead][::2]
    gevent.killall(victims, block=False)
    gevent.joinall(crowd, raise_error=True)
    assert len(victims) > 10
    assert len(world.done) == 40 - len(victims)
    assert world.fullest_round() <= 4


def test_a_lone_call_never_waits(world):
    """Whoever comes first in a round goes on at once, and may ask again within the budget."""
    with assert_no_switch():
        yield_if_due()
        world.clock.advance(WORK)
        yield_if_due()


def test_a_waiter_is_reason_enough_for_the_hub_to_go_on(world):
    """With nothing else to wait for, the one who waits gets its turn, not a `LoopExit`."""
    yield_if_due()
    world.clock.advance(1.0)
    before = world.round
    yield_if_due()
    assert world.round > before


def test_in_a_thread_without_a_hub_nobody_waits(world, monkeypatch):
    """An unpatched process has no crowd of greenlets."""
    monkeypatch.setattr(_fair_hub, "hub_here", lambda: None)
    with assert_no_switch():
        yield_if_due()
        world.clock.advance(1.0)
        yield_if_due()
