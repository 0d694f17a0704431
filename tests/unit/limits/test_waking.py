"""Waking many at once, and who else gets to run meanwhile."""

from __future__ import annotations

import itertools

import gevent

from greenkit.limits import Limiter
from greenkit.wait import _mailbox


def wake_two_hundred():
    """Let 200 waiters through at once; return how many turns a stranger had while they ran."""
    limiter = Limiter("a", requests="1000/s burst 1000")
    limiter.pause(3600)
    passed, turns, hub = [], [], gevent.get_hub()

    def wait():
        with limiter.permit():
            passed.append(1)

    def stranger():
        while len(passed) < 200:
            if passed:
                turns.append(len(passed))
            hub.wait(hub.loop.timer(0.0))  # as a stranger that reads from a socket waits for the loop

    jobs = [gevent.spawn(wait) for _ in range(200)]
    gevent.sleep(0)
    assert limiter.statistics().waiting == 200
    jobs.append(gevent.spawn(stranger))
    gevent.sleep(0)
    limiter.resume()
    gevent.joinall(jobs, raise_error=True)
    return len(turns)


def test_strangers_run_while_many_are_woken(monkeypatch):
    """After 5 ms of waking the loop has its turn: here every waiter works for 2 ms."""
    working = itertools.count(step=2)
    monkeypatch.setattr(_mailbox, "monotonic", lambda: next(working) / 1000)
    assert wake_two_hundred() > 40


def test_without_a_batch_time_strangers_stand_still(monkeypatch):
    """The broken twin: a clock that stands still never ends a batch; only gevent does, every 50 callbacks."""
    monkeypatch.setattr(_mailbox, "monotonic", lambda: 0.0)
    assert wake_two_hundred() <= 5
