"""Waking many at once, and who else gets to run meanwhile."""

from __future__ import annotations

import itertools

import gevent

from greenkit.limits import Limiter, _turns


def wake_two_hundred():
    """Let 200 waiters through at once; return how many turns a stranger had while they ran."""
    limiter = Limiter("a", requests="1000/s burst 1000")
    limiter.pause(3600)
    passed, turns = [], []

    def one():
        with limiter.permit():
            passed.append(1)

    def stranger():
        while len(passed) < 200:
            if passed:
                turns.append(len(passed))
            gevent.sleep(0)

    jobs = [gevent.spawn(one) for _ in range(200)]
    gevent.sleep(0)
    assert limiter.statistics().waiting == 200
    jobs.append(gevent.spawn(stranger))
    limiter.resume()
    gevent.joinall(jobs, raise_error=True)
    return len(turns)


def test_strangers_run_while_many_are_woken(monkeypatch):
    """After 5 ms of waking the loop has its turn: here every waiter works for 2 ms."""
    working = itertools.count(step=2)
    monkeypatch.setattr(_turns, "monotonic", lambda: next(working) / 1000)
    assert wake_two_hundred() > 40


def test_without_a_waking_time_strangers_stand_still(monkeypatch):
    """The broken twin: a clock that stands still never ends a turn of waking."""
    monkeypatch.setattr(_turns, "monotonic", lambda: 0.0)
    assert wake_two_hundred() <= 1
