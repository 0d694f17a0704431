from __future__ import annotations

import gevent
import greenlet
import pytest
from gevent.monkey import get_original

from greenkit.testing import assert_no_switch


def test_a_block_that_switches_is_caught_with_its_stack():
    """The error shows the line that gave control away."""
    with pytest.raises(AssertionError, match=r"gevent\.sleep\(0\)  # the culprit"), assert_no_switch():
        gevent.sleep(0)  # the culprit


def test_a_block_that_only_starts_others_passes():
    """To spawn is not to switch."""
    with assert_no_switch():
        other = gevent.spawn(lambda: None)
    other.join()


def test_an_exception_of_the_block_is_not_hidden():
    """The block's own error comes out, switch or none."""
    with pytest.raises(KeyError), assert_no_switch():
        switch_and_fail()


def switch_and_fail():
    gevent.sleep(0)
    raise KeyError


def test_blocks_nest_and_the_trace_before_comes_back():
    """Both blocks see the switch, and greenlet's trace function is what it was."""
    events = []
    before = greenlet.settrace(lambda event, args: events.append(event))
    try:
        mine = greenlet.gettrace()
        outer = pytest.raises(AssertionError)
        with outer, assert_no_switch(), pytest.raises(AssertionError), assert_no_switch():
            gevent.sleep(0)
        assert greenlet.gettrace() is mine
        assert "switch" in events
    finally:
        greenlet.settrace(before)


def test_a_switch_of_another_thread_is_not_ours():
    """Only the thread of the block counts."""
    # The originals: in a patched process `threading` would make a greenlet, and joining it switches.
    start, lock = (get_original("_thread", name) for name in ("start_new_thread", "allocate_lock"))
    running = lock()
    running.acquire()

    def elsewhere():
        gevent.sleep(0)
        done.append(True)
        running.release()

    done = []
    with assert_no_switch():
        start(elsewhere, ())
        assert running.acquire(True, 10)
    assert done
