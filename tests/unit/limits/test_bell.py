from __future__ import annotations

import threading

import gevent
import pytest

from greenkit.limits._bell import bell_here
from greenkit.testing import assert_no_switch


def test_a_bell_wakes_its_sleeper_early():
    """Rung during the sleep, from this thread or another, it ends it; twice is once."""
    bells, woken = [], []

    def sleeper():
        bells.append(bell_here())
        bells[-1].wait(60)
        woken.append(gevent.getcurrent())

    here, there = gevent.spawn(sleeper), gevent.spawn(sleeper)
    gevent.sleep(0)
    bells[0].ring()
    bells[0].ring()
    thread = threading.Thread(target=bells[1].ring)
    thread.start()
    gevent.joinall([here, there], timeout=10)
    thread.join(10)
    assert set(woken) == {here, there}


def test_a_bell_rung_before_the_sleep_is_heard():
    """No switch, no sleep."""
    bell = bell_here()
    bell.ring()
    with assert_no_switch():
        bell.wait(60)


def test_a_bell_rings_by_itself_when_the_time_has_come():
    """A sleep of no length ends without anybody; a ring ends one sleep, not the one after it."""
    bell = bell_here()
    bell.wait(0.0)
    bell.ring()
    with assert_no_switch():
        bell.wait()
    with pytest.raises(AssertionError, match="must not switch"), assert_no_switch():
        bell.wait(0.0)


def test_a_late_bell_does_not_wake_who_was_killed():
    """Ring and kill in the same turn: the switch of the bell goes nowhere."""
    bells, after = [], []

    def sleeper():
        bells.append(bell_here())
        try:
            bells[-1].wait(60)
        except gevent.GreenletExit:
            gevent.sleep(0)  # a wait of its own, which the bell must not end
            gevent.sleep(0)
            after.append("undisturbed")
            raise

    greenlet = gevent.spawn(sleeper)
    gevent.sleep(0)
    greenlet.kill(block=False)
    bells[0].ring()
    greenlet.join(timeout=10)
    assert after == ["undisturbed"]
