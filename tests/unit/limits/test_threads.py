from __future__ import annotations

import itertools
import sys
import threading
from functools import partial

import gevent
from gevent import monkey

from greenkit.limits import Limiter
from greenkit.wait import hub_here

start_new_thread = monkey.get_original("_thread", "start_new_thread")
allocate_lock = monkey.get_original("_thread", "allocate_lock")


def natively(*functions):
    """Run each function in a thread of its own, also where `threading` makes greenlets."""
    ends = []
    for function in functions:
        ended = allocate_lock()
        ended.acquire()
        ends.append(ended)

        def run(function=function, ended=ended):
            try:
                function()
            finally:
                ended.release()

        start_new_thread(run, ())
    for ended in ends:
        assert ended.acquire(timeout=60)


def test_threads_share_one_budget_and_lose_nothing():
    """Waiters of three hubs pass one turnstile; all get through, none twice."""
    limiter = Limiter("shared", requests="1_000/s burst 1", concurrency=7)
    passed, waited = [], []

    def one(number):
        with limiter.permit(timeout=60) as permit:
            passed.append(number)
            waited.append(permit.waited)

    def crowd(first):
        gevent.joinall([gevent.spawn(one, first + number) for number in range(60)], raise_error=True)

    threads = [threading.Thread(target=crowd, args=(first,)) for first in (0, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(set(passed)) == len(passed) == 180
    assert sum(wait > 0 for wait in waited) > 100, "hardly anybody had to wait"
    seen = limiter.statistics()
    assert (seen.granted, seen.waiting, seen.in_use) == (180, 0, 0)


def test_threads_without_a_hub_wait_by_themselves():
    """A web server's threads in a process that was never patched: no hub is made, nobody is lost."""
    limiter = Limiter("plain", requests="1_000/s burst 1", concurrency=3)
    passed, hubs = [], []

    def one(number):
        for _ in range(20):
            with limiter.permit(timeout=60) as permit:
                passed.append(permit.waited)
        hubs.append(hub_here())

    natively(*[partial(one, number) for number in range(8)])
    assert len(passed) == 160
    assert sum(wait > 0 for wait in passed) > 80, "hardly anybody had to wait"
    assert hubs == [None] * 8
    seen = limiter.statistics()
    assert (seen.granted, seen.waiting, seen.in_use) == (160, 0, 0)


def test_threads_with_and_without_a_hub_stand_in_one_line():
    """Whoever is head is timed where it can be, and hands on to the other kind."""
    limiter = Limiter("mixed", requests="1_000/s burst 1")
    order, kinds = [], []

    def one(name):
        for number in range(30):
            with limiter.permit(timeout=60):
                order.append((name, number))
                kinds.append(hub_here() is not None)

    def green():
        gevent.joinall([gevent.spawn(one, name) for name in "abc"], raise_error=True)

    natively(green, partial(one, "plain"))
    assert len(order) == 120
    for name in ("a", "b", "c", "plain"):
        assert [number for who, number in order if who == name] == list(range(30))
    changes = sum(one != other for one, other in itertools.pairwise(kinds))
    assert changes > 10, "the two kinds never took turns"


def overtake(steps, *, rounds=300):
    """Have threads take from one budget of 500 without its lock; return how often more was granted than that.

    Args:
        steps: Makes, from a limiter, what takes one permit and tells whether it went.
        rounds: Budgets tried.
    """
    wrong = 0
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(rounds):
            limiter = Limiter("raced", requests="1/day burst 500", tokens="1/day burst 500")
            take = steps(limiter)
            passed = []

            def some(take=take, passed=passed):
                passed.append(sum(take() for _ in range(300)))

            natively(some, some, some)
            wrong += sum(passed) != 500
    finally:
        sys.setswitchinterval(interval)
    return wrong


def test_threads_overtake_nobody():
    """The look and the write are one step: exactly the budget goes, whoever runs when."""
    assert overtake(lambda limiter: lambda: bool(limiter.try_permit(tokens=1)), rounds=60) == 0


def test_threads_that_look_and_write_in_two_steps_are_caught():
    """The broken twin: a call between the look and the write lets another thread in."""

    def steps(limiter):
        state, clock = limiter._budget.state, limiter.clock.now

        def take():
            before = state.tats
            after = state.rules.decide(before, (1.0, 1.0), clock(), credit=0.0)
            if after is None:
                return False
            if state.tats is before:
                clock()
                state.tats = after
                return True
            return take()

        return take

    assert overtake(steps) > 0
