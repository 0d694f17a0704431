"""Waiters that die at random moments, and what the others notice of it: nothing."""

from __future__ import annotations

import itertools
import random
from functools import partial

import gevent
import pytest

from greenkit.limits import Limiter
from greenkit.limits._local import LocalBudget
from greenkit.limits._queue import GreenParker
from greenkit.testing import FakeClock
from tests.unit.limits.simulate import sleeping_moves_the_clock


@pytest.fixture
def clock(monkeypatch):
    clock = FakeClock()
    sleeping_moves_the_clock(monkeypatch, clock, turns=8)  # time for what a kill sets off
    return clock


@pytest.fixture
def handed(monkeypatch):
    """Give who is on the way: granted and woken, but not run yet, so that a kill may come first."""
    on_the_way, ring = set(), GreenParker.wake

    def note(self):
        on_the_way.add(self._greenlet)
        self.mailbox.post(
            partial(self.mailbox.post, partial(ring, self))
        )  # two turns in which a kill may come

    monkeypatch.setattr(GreenParker, "wake", note)
    return on_the_way


def kill_at_random(seed, clock, limiter, on_the_way=()):
    """Let 30 waiters through while some are killed.

    Return (instants passed, killed in the queue, killed while the turn was on its way to them).
    """
    rng = random.Random(seed)
    passed = []

    def one():
        with limiter.permit():
            passed.append(clock.now())
        on_the_way and on_the_way.discard(gevent.getcurrent())

    waiters = [gevent.spawn(one) for _ in range(30)]
    in_line = handed = 0
    while True:
        gevent.sleep(0)
        alive = [waiter for waiter in waiters if not waiter.ready()]
        if not alive:
            return passed, in_line, handed
        near = [waiter for waiter in alive if waiter in on_the_way]  # the moment that matters lasts one turn
        victim = (near or alive)[0] if rng.random() < 0.5 else rng.choice(alive)
        if rng.random() < 0.3 and victim.started:
            in_line += limiter.statistics().waiting > 0
            handed += victim in on_the_way
            victim.kill(block=rng.random() < 0.5)


def check_nothing_lost(clock, limiter, passed):
    """Every grant is 1/rate after the one before, at most: a killed waiter's turn was not lost."""
    assert limiter.statistics().waiting == 0
    gaps = [later - earlier for earlier, later in itertools.pairwise(passed)]
    assert all(gap == pytest.approx(0.1) for gap in gaps), gaps
    assert limiter.statistics().granted == len(passed)
    clock.advance(0.1)
    assert limiter.try_permit()


def test_a_killed_waiter_loses_no_permit_of_others(clock, handed):
    """Killed at any moment, asleep or being handed the turn, a waiter costs the others nothing."""
    killed_in_line = killed_in_hand_off = 0
    for seed in range(300):
        limiter = Limiter("a", requests="10/s burst 1", clock=clock)
        passed, in_line, on_the_way = kill_at_random(seed, clock, limiter, handed)
        check_nothing_lost(clock, limiter, passed)
        killed_in_line += in_line
        killed_in_hand_off += on_the_way
    assert killed_in_line > 500, "too few were killed in the queue"
    assert killed_in_hand_off > 100, "the hand-off was hardly ever hit"


def test_the_kill_test_sees_a_limiter_that_books_too_early(clock, monkeypatch):
    """A twin that books a slot per waiter, as tickets do, is caught by the same check."""
    due = []

    def book_then_sleep(self, costs, *, lane, until):
        mine = max(self.state.tats[0], self.now())
        self.state.tats = (mine + 0.1,)
        self.state.granted += 1
        due.append(mine)
        try:
            while self.now() < mine:
                first = mine == min(due)
                for _ in range(5):
                    gevent.sleep(0)
                if first:
                    clock.advance(mine - self.now())
        finally:
            due.remove(mine)

    monkeypatch.setattr(LocalBudget, "take", book_then_sleep)
    with pytest.raises(AssertionError):  # noqa: PT012
        for seed in range(5):
            limiter = Limiter("a", requests="10/s burst 1", clock=clock)
            passed, _, _ = kill_at_random(seed, clock, limiter)
            check_nothing_lost(clock, limiter, passed)
