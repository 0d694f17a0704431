"""However a block ends, no greenlet is left: counted, not believed."""

from __future__ import annotations

import gc
import itertools
import weakref

import gevent
import pytest
from gevent.event import Event

from greenkit.pool import GreenPool


@pytest.fixture
def alive():
    """Give a function that returns gevent's greenlets that live, but for those of earlier tests."""
    before = {id(one): one for one in greenlets()}
    return lambda: [one for one in greenlets() if id(one) not in before]


def greenlets():
    # Not isinstance(): it would ask a lazy object, such as settings of Django, for its class.
    found = [one for one in gc.get_objects() if issubclass(type(one), gevent.Greenlet)]
    return [one for one in found if not one.dead]


def turns(number):
    for _ in range(number):
        gevent.sleep(0)


def wait_for_ever(item):
    Event().wait()


def quick_or_for_ever(item):
    return item if item < 3 else Event().wait()


WAYS = ["spawn", "stream", "imap", "map"]
ENDS = {
    "error": KeyError("my own"),
    "greenlet exit": gevent.GreenletExit(),
    "timeout": gevent.Timeout(1),
    "keyboard": KeyboardInterrupt(),
    "system exit": SystemExit(3),
    "generator exit": GeneratorExit(),
}


@pytest.mark.parametrize("way", ["spawn", "stream", "imap"])
@pytest.mark.parametrize("end", sorted(ENDS))
def test_a_block_left_by_an_exception_leaves_nothing(alive, way, end):
    """Whatever is raised in the block goes on, and every child and feeder has ended by then."""
    with pytest.raises(type(ENDS[end])) as caught, GreenPool(4) as pool:  # noqa: PT012 - the block is the thing
        if way == "spawn":
            children = [pool.spawn(wait_for_ever, n) for n in range(4)]
            gevent.sleep(0)
        else:
            results = getattr(pool, way)(quick_or_for_ever, itertools.count())
            children = [next(results) for _ in range(3)]
        assert children
        assert alive(), "the moment under test needs running greenlets"
        raise ENDS[end]
    assert caught.value is ENDS[end]
    assert not alive()
    assert pool.statistics().children == pool.statistics().in_use == 0


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("end", ["kill", "timeout"])
def test_an_owner_struck_from_outside_leaves_nothing(alive, way, end):
    """A kill or a time-out that strikes the owner while it waits takes everything along."""
    started = Event()

    def owner():
        with GreenPool(3) as pool:
            if way == "spawn":
                for n in itertools.count():
                    pool.spawn(wait_for_ever, n)
                    started.set()
            for _ in getattr(pool, way)(lambda n: (started.set(), Event().wait()), range(1000)):
                pass

    job = gevent.spawn(owner)
    assert started.wait(10)
    gevent.sleep(0)
    assert len(alive()) >= 1 + 3
    job.kill(gevent.Timeout(1) if end == "timeout" else gevent.GreenletExit())
    assert job.dead
    job.exception  # noqa: B018 - taken note of
    assert not alive()


@pytest.mark.parametrize("way", ["stream", "imap"])
def test_break_leaves_nothing_before_the_block_ends(alive, way):
    """After `break` the run is over; other children of the pool live on."""
    with GreenPool(5) as pool:
        gate = Event()
        other = pool.spawn(gate.wait)
        for _ in getattr(pool, way)(quick_or_for_ever, itertools.count()):
            break
        assert alive() == [other]
        gate.set()
    assert not alive()


@pytest.mark.parametrize("way", ["stream", "imap"])
def test_an_iterator_dropped_or_closed_leaves_nothing(alive, way):
    """Closing the iterator, or losing it, ends its run."""
    with GreenPool(5) as pool:
        for drop in (False, True):
            results = getattr(pool, way)(quick_or_for_ever, itertools.count())
            next(results)
            assert alive()
            if drop:
                del results
            else:
                results.close()
            gevent.sleep(0)
            assert not alive()


def test_a_source_that_swallows_the_kill_starts_nothing_more(alive):
    """A generator that catches everything cannot keep the run going."""
    begun = []

    def stubborn():
        for n in itertools.count():
            try:
                gevent.sleep(0)
            except BaseException:
                continue
            yield n

    with GreenPool(3) as pool:
        for _ in pool.stream(begun.append, stubborn()):
            break
        after = len(begun)
        turns(20)
        assert len(begun) == after
    assert not alive()


def test_a_timeout_that_strikes_during_break_is_not_lost():
    """The owner's time-out comes at its next switch if it is still inside, and not at all if it has left."""

    def slow_to_die(item):
        try:
            Event().wait(30 if item else 0)
        finally:
            turns(10)

    def owner(*, stays):
        timer = gevent.Timeout.start_new(1000)
        me = gevent.getcurrent()
        with timer:
            for _ in pool.stream(slow_to_die, range(3)):
                # As if it fired while the children are being joined.
                gevent.get_hub().loop.run_callback(me.throw, timer)
                break
            if stays:
                gevent.idle()
                return "lost"
        gevent.idle()
        return "left in time"

    with GreenPool(3) as pool:
        inside = gevent.spawn(owner, stays=True)
        with pytest.raises(gevent.Timeout):
            inside.get()
        assert gevent.spawn(owner, stays=False).get() == "left in time"


class Thing:
    """Something that can be watched."""


@pytest.mark.parametrize("fails", [False, True])
def test_what_work_held_is_let_go_without_the_collector(fails):
    """Neither a value nor the locals of failed work live on in a cycle."""
    watched = []

    def work(item):
        thing = Thing()
        watched.append(weakref.ref(thing))
        if fails:
            raise ValueError(item)
        return thing

    gc.disable()
    try:
        with GreenPool(2) as pool:
            for _, out in pool.stream(work, range(6), on_error="return"):
                if fails:
                    with pytest.raises(ValueError):
                        out.get()
            del out
            child = pool.spawn(work, 6)
            child.join()
            if fails:
                with pytest.raises(ValueError):
                    child.get()
            del child
        gevent.sleep(0)  # the loop lets go of the last callback
        assert len(watched) == 7
        assert [one() for one in watched if one() is not None] == []
    finally:
        gc.enable()
