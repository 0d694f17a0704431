"""What counts as a block, and what as a machine that is too busy."""

from __future__ import annotations

import gc

import gevent
import pytest

from greenkit import facts
from greenkit.watchdog._look import Look
from greenkit.watchdog._sentry import Block, Observers, Pulse, Sentry
from greenkit.watchdog._usage import Meter, Usage, count_collections


@pytest.fixture
def sentry():
    """Give a sentry of this thread that has not started."""
    one = Sentry(Pulse(), gevent.get_hub(), threshold=0.1, interval=0.02, observers=Observers())
    one._meter = Meter()
    return one


@pytest.mark.parametrize(
    ("runnable", "passed", "worked", "starved"),
    [
        (True, 0.3, 0.1, 0.2),  # it wanted a processor, and others had it
        (True, 0.3, 0.3, 0.0),  # it had one all the time: a busy loop is a block
        (False, 0.02, 0.0, 0.0),  # it sleeps in a call: a block
        (False, 0.3, 0.0, 0.28),  # we slept longer than we asked for: nobody here got a processor
        (False, 0.3, 0.28, 0.0),  # it kept the interpreter to itself
    ],
)
def test_a_thread_that_waits_for_a_processor_is_not_blocked(
    sentry, monkeypatch, runnable, passed, worked, starved
):
    """Seconds without a processor are nobody's fault; seconds at work, or asleep in a call, are."""
    monkeypatch.setattr(sentry, "_is_runnable", lambda: runnable)
    assert sentry._starved(passed, worked) == pytest.approx(starved)


def test_a_thread_that_runs_is_runnable_and_one_that_is_gone_is_not(sentry):
    """The state is read from the system; a thread without one is not said to wait for a processor."""
    assert sentry._is_runnable()
    sentry._meter.task = 0
    assert not sentry._is_runnable()


@pytest.mark.parametrize(
    ("seconds", "used", "call", "alone"),
    [
        (2.0, Usage(1.5, 0.25), "", 1.75),  # it computes; a little of it without a processor
        (2.0, Usage(0.1, 1.4), "", 0.1),  # it computes when it may; the rest it waits for the interpreter
        (2.0, Usage(0.1, 1.4), "time.sleep", 0.6),  # the call is known to wait
        (2.0, Usage(0.0, 0.25), "", 1.75),  # a call in C that sleeps
    ],
)
def test_what_of_a_block_is_its_own(seconds, used, call, alone):
    """A thread that was ready most of the time computes: what it did not compute was not its own."""
    block = Block(0.0, 0.0, seen=Look((), call=call))
    assert block.alone(seconds, used) == pytest.approx(alone)


@pytest.mark.parametrize(
    ("used", "call", "named"),
    [
        (Usage(0.2, 0.0, 0.15), "", facts.COLLECTOR),  # computes, and most of that in the collector
        (Usage(0.2, 1.0, 0.15), "", facts.COLLECTOR),  # the same without a processor
        (Usage(1.0, 0.0, 0.15), "", ""),  # the program computes most of the time
        (Usage(0.0, 0.0, 0.15), "", ""),  # it waits in a call, and another thread collects
        (Usage(0.0, 0.0, 1.2), "", facts.COLLECTOR),  # another thread collects all the time
        (Usage(0.2, 0.0, 0.15), "gc.collect", "gc.collect"),  # the program asks for it
    ],
)
def test_the_garbage_collector_is_named(used, call, named):
    """A line at which a collection begins did not cause it."""
    seconds = 0.25 if used.computed == 0.2 and not used.waited else 1.5
    block = Block(0.0, 0.0, seen=Look((), call=call))
    assert block.fact(seconds, used, over=True).call == named


def test_full_collections_are_measured():
    """The younger ones, which hold few objects, are not."""
    gc.disable()  # none of its own accord
    count_collections(True)
    try:
        meter = Meter()
        held = [[number] for number in range(100_000)]
        before = meter.read()
        gc.collect(0)
        assert meter.read().collected == before.collected
        gc.collect()
        spent = meter.read().since(before)
        assert 0 < spent.collected <= spent.computed
        assert len(held) == 100_000
    finally:
        count_collections(False)
        gc.enable()
