"""Does the limiter cost anything worth knowing, and does it lose rate or order under load?

Answered in one run with ratios, because absolute times move with the machine:

1. What does an uncontended permit cost, in empty method calls, beside other limiters' cheapest call?
2. Do 1000 and 10,000 waiters at burst 1 get the whole rate, in order, for how much more CPU than as
   many greenlets that each just sleep until their time? And with other limiters?
3. What do 100,000 keys cost, and how long does the hub stand still for them?
4. What does `attempts()` add to a hand-written loop around a permit, when nothing fails?

Rivals run at their best settings. Those that cannot keep a burst of 1 run with the burst they have.

Run: python benchmarks/bench_limiter.py
"""

from __future__ import annotations

import gevent.monkey

gevent.monkey.patch_all()

import platform
import subprocess
import sys
import time
import timeit
import tracemalloc

import gevent
from rivals import limiters

from greenkit.limits import Limiter

CALLS, ROUNDS = 2_000, 101


class Empty:
    def call(self):
        pass


class Slip:
    """What a permit must be at the least: an object that knows four things, to be entered, settled, left."""

    __slots__ = ("costs", "door", "state", "waited")

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        pass

    def settle(self, *, requests=None, tokens=None, **others):
        pass


class Floor:
    """What no limiter in Python can go below: keywords, the time, and an object; and no arithmetic."""

    def try_permit(self, *, requests=None, tokens=None, **others):
        time.monotonic()
        slip = Slip()
        slip.door = slip.costs = self
        slip.state, slip.waited = 1, 0.0
        return slip

    permit = try_permit


def one_limit():
    return Limiter("one", requests="1_000_000/s burst 1_000_000")


def two_limits():
    return Limiter("two", requests="1_000_000/s burst 1_000_000", tokens="900_000_000/s burst 900_000_000")


BY_HAND = "while True:\n    with x.permit():\n        break"
ATTEMPTS = "for attempt in x.attempts(deadline=10.0):\n    with attempt:\n        pass"
SETTLED = "with x.permit(tokens=900) as permit: permit.settle(tokens=500)"
# A statement, and what `x` is in it. A rival sits in a function of its own: one empty call more.
CASES = {
    "floor: keywords, time, object": ("x.try_permit()", Floor),
    "try_permit(), one limit": ("x.try_permit()", one_limit),
    "try_permit(tokens=900), two limits": ("x.try_permit(tokens=900)", two_limits),
    "floor: that, with, and settle(tokens=500)": (SETTLED, Floor),
    "with permit(), one limit": ("with x.permit(): pass", one_limit),
    "with permit(tokens=900): settle(tokens=500)": (SETTLED, two_limits),
    "key(7).try_permit()": ("x.key(7).try_permit()", one_limit),
    "a loop by hand around permit()": (BY_HAND, one_limit),
    "attempts(), nothing fails": (ATTEMPTS, one_limit),
} | {name: ("x()", lambda make=make: make(1_000_000, 1_000_000)[0]) for name, make in limiters.ALL.items()}


def one_case(name):
    """Print the best time of an empty call and of one case, of rounds that take turns."""
    statement, make = CASES[name]
    empty = timeit.Timer("x()", globals={"x": Empty().call})
    case = timeit.Timer(statement, globals={"x": make()})
    rounds = [(empty.timeit(CALLS), case.timeit(CALLS)) for _ in range(ROUNDS)]
    print(*map(min, zip(*rounds, strict=True)))


def uncontended():
    """Return {what: (best time / best time of an empty call, best time in microseconds)}.

    The best of the rounds: what is above it is neighbours. Each case has a process of its own, or it
    would pay for the threads and timers of the others.
    """
    found = {}
    for name in CASES:
        run = [sys.executable, __file__, "--case", name]
        told = subprocess.run(run, capture_output=True, text=True, check=True).stdout
        base, spent = map(float, told.split())
        found[name] = (spent / base, spent / CALLS * 1e6)
    base, spent = map(min, zip(*asynchronous(), strict=True))
    found["aiolimiter (asyncio)"] = (spent / base, spent / CALLS * 1e6)
    return found


ASYNCIO = """
import asyncio, timeit, time
from aiolimiter import AsyncLimiter

class Empty:
    def call(self): pass

async def run():
    limiter = AsyncLimiter(1_000_000, 1.0)
    begin = time.perf_counter()
    for _ in range({calls}):
        async with limiter:
            pass
    return time.perf_counter() - begin

for _ in range({rounds}):
    base = timeit.timeit(Empty().call, number={calls})
    spent = asyncio.run(run())
    print(base, spent)
"""


def asynchronous():
    program = ASYNCIO.format(calls=CALLS, rounds=ROUNDS)
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    return [tuple(map(float, line.split())) for line in told.splitlines()]


def crowd(wait, waiters):
    """Run greenlets of `wait(number)`; return (seconds from the first grant to the last, CPU, order)."""
    passed = []

    def one(number):
        wait(number)
        passed.append((number, time.monotonic()))

    cpu = time.process_time()
    gevent.joinall([gevent.spawn(one, number) for number in range(waiters)], raise_error=True)
    cpu = time.process_time() - cpu
    return passed[-1][1] - passed[0][1], cpu, [number for number, _ in passed]


def ours(rate):
    limiter = Limiter("crowd", requests=f"{rate}/s burst 1")

    def wait(_):
        with limiter.permit():
            pass

    return wait


def with_timeout(rate):
    limiter = Limiter("crowd", requests=f"{rate}/s burst 1")

    def wait(_):
        with limiter.permit(timeout=100.0):
            pass

    return wait


def show_crowds(waiters, rate, names):
    start = time.monotonic()
    _, bare, _ = crowd(
        lambda number: gevent.sleep(max(0.0, start + number / rate - time.monotonic())), waiters
    )
    print(f"{waiters} waiters, {rate}/s, burst 1 (CPU of a bare sleep loop: {bare:.2f} s)")
    runs = {"greenkit": ours, "greenkit, each with a time-out": with_timeout}
    runs |= {
        name: (lambda rate, make=limiters.ALL[name]: _numbered(make(rate, 1)[1]))
        for name in names
        if name in limiters.ALL
    }
    for name, make in runs.items():
        wall, cpu, passed = crowd(make(rate), waiters)
        displaced = sum(place != number for place, number in enumerate(passed))
        used, busy = (waiters - 1) / rate / wall, cpu / bare
        print(f"  {name:34} {used:7.1%} of the rate, {displaced:5} out of order, CPU {busy:5.2f} x")


def _numbered(wait):
    return lambda _: wait()


def keys():
    """Come, rest and go; gaps are CPU time between two turns of the loop, which no neighbour stretches."""
    api = Limiter("api", requests="10/min burst 5")
    many = [f"user:{number}" for number in range(100_000)]
    gaps = []

    def watch():
        last = time.process_time()
        while True:
            gevent.sleep(0.001)
            now = time.process_time()
            gaps.append(now - last)
            last = now

    watcher = gevent.spawn(watch)
    for number, key in enumerate(many):
        api.key(key).try_permit()
        if number % 100 == 99:
            gevent.sleep(0.0001)  # not 0: gevent runs fifty of those before it looks at a timer
    filling, left = max(gaps), api.statistics().keys
    gaps.clear()
    begin = time.monotonic()
    while api.statistics().keys and time.monotonic() - begin < 120:
        gevent.sleep(0.05)
    print(f"100,000 keys: the hub stood still for {filling * 1000:.1f} ms at most while they came")
    quiet, still = time.monotonic() - begin, max(gaps) * 1000
    print(
        f"  of {left}, {api.statistics().keys} were left after {quiet:.0f} s of quiet; {still:.1f} ms at most"
    )
    watcher.kill()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for key in many:
        api.key(key).try_permit()
    print(
        f"  {(tracemalloc.get_traced_memory()[0] - before) / len(many):.0f} bytes each, beside the key itself"
    )
    tracemalloc.stop()


def main():
    if "--case" in sys.argv:
        one_case(sys.argv[2])
        return
    print(f"Python {platform.python_version()}, gevent {gevent.__version__}, {platform.machine()}, patched")
    for what, (ratio, micros) in uncontended().items():
        print(f"  {what:48} {ratio:6.1f} x an empty call  {micros:6.2f} us", flush=True)
    show_crowds(1000, 200, ["limits, moving window", "token-bucket", "steindamm", "kombu's bucket"])
    show_crowds(10_000, 5_000, [])
    keys()


if __name__ == "__main__":
    main()
