from __future__ import annotations

import threading

import gevent
import pytest

from greenkit.limits._queue import parker_here
from greenkit.testing import assert_no_switch


def test_a_sleeper_is_woken_early():
    """Woken during the sleep, from this thread or another, it ends it; twice is once."""
    parkers, woken = [], []

    def sleeper():
        parkers.append(parker_here())
        parkers[-1].park(60)
        woken.append(gevent.getcurrent())

    here, there = gevent.spawn(sleeper), gevent.spawn(sleeper)
    gevent.sleep(0)
    parkers[0].wake()
    parkers[0].wake()
    thread = threading.Thread(target=parkers[1].wake)
    thread.start()
    gevent.joinall([here, there], timeout=10)
    thread.join(10)
    assert set(woken) == {here, there}


def test_a_wake_before_the_sleep_is_heard():
    """No switch, no sleep."""
    parker = parker_here()
    parker.wake()
    with assert_no_switch():
        parker.park(60)


def test_a_sleep_ends_when_its_time_has_come():
    """A sleep of no length ends without anybody; a wake ends one sleep, not the one after it."""
    parker = parker_here()
    parker.park(0.0)
    parker.wake()
    with assert_no_switch():
        parker.park()
    with pytest.raises(AssertionError, match="must not switch"), assert_no_switch():
        parker.park(0.0)


def test_a_late_wake_does_not_reach_who_was_killed():
    """Wake and kill in the same turn: the switch of the parker goes nowhere."""
    parkers, after = [], []

    def sleeper():
        parkers.append(parker_here())
        try:
            parkers[-1].park(60)
        except gevent.GreenletExit:
            gevent.sleep(0)  # a wait of its own, which the parker must not end
            gevent.sleep(0)
            after.append("undisturbed")
            raise

    greenlet = gevent.spawn(sleeper)
    gevent.sleep(0)
    greenlet.kill(block=False)
    parkers[0].wake()
    greenlet.join(timeout=10)
    assert after == ["undisturbed"]
