"""The queue our connection pools give urllib3."""

from __future__ import annotations

import queue

import gevent
import pytest

from greenkit.http._slots import Slots


@pytest.fixture
def slots():
    """Give two slots, filled as urllib3 fills a new pool's queue."""
    made = Slots(2)
    for _ in range(2):
        made.put(None, block=False)
    return made


def test_the_last_connection_given_back_goes_first(slots):
    """The warmest connection is used again; None is for those not made yet."""
    assert [slots.get(), slots.get()] == [None, None]
    slots.put("a")
    slots.put("b")
    assert [slots.get(), slots.get()] == ["b", "a"]


def test_an_empty_queue_says_so_in_queues_words(slots):
    """Without a slot, and after a time-out, `queue.Empty` is raised, as urllib3 expects."""
    slots.get()
    slots.get()
    for options in ({"block": False}, {"timeout": 0.0}):
        with pytest.raises(queue.Empty):
            slots.get(**options)
    assert slots.qsize() == 0


def test_a_connection_nobody_took_is_refused(slots):
    """One more connection than slots is `queue.Full`, so that urllib3 closes it."""
    with pytest.raises(queue.Full):
        slots.put("a")


def test_a_killed_waiter_is_put_back_without_having_taken(slots):
    """The slot urllib3 puts back for a waiter killed in the line does not make the pool larger."""
    slots.get()
    slots.get()
    waiters = [gevent.spawn(slots.get, timeout=60) for _ in range(3)]
    gevent.idle()
    gevent.killall(waiters)
    for _ in waiters:
        slots.put(None, block=False)  # as urlopen() does in its finally
    assert slots.qsize() == 0
    slots.put("a", block=False)
    assert slots.qsize() == 1


def test_a_slot_given_back_goes_to_the_first_in_line(slots):
    """Waiters get connections in the order they came, also when one before them was killed."""
    slots.get()
    slots.get()
    got = []
    waiters = [gevent.spawn(lambda name=name: got.append((name, slots.get(timeout=60)))) for name in "abc"]
    gevent.idle()
    waiters[0].kill(block=False)
    slots.put("one")  # granted to a, who dies before it runs
    gevent.joinall(waiters[:1])
    slots.put(None)  # urlopen() on behalf of a
    slots.put("two")
    gevent.joinall(waiters)
    assert [name for name, _ in got] == ["b", "c"], "a was not killed in time"
    assert {connection for _, connection in got} == {"one", "two"}
