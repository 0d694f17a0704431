"""Does the limiter cost anything worth knowing, and does it lose rate or order under load?

Two questions, answered in one run with ratios, because absolute times move with the machine:

1. What does an uncontended permit cost, in empty method calls?
2. Do 1000 waiters at 200/s and burst 1 get the whole rate, in order, for how much more CPU than
   1000 greenlets that each just sleep until their time?

Run: python benchmarks/bench_limiter.py
"""

from __future__ import annotations

import platform
import statistics
import time
import timeit

import gevent

from greenkit.limits import Limiter

CALLS, ROUNDS = 20_000, 11
WAITERS, RATE = 1000, 200


class Empty:
    def call(self):
        pass


def uncontended():
    """Return {what: median of (time / time of an empty call in the same round)}."""
    one = Limiter("one", requests="1_000_000/s burst 1_000_000")
    two = Limiter("two", requests="1_000_000/s burst 1_000_000", tokens="900_000_000/s burst 900_000_000")

    def block():
        with one.permit():
            pass

    def block_settle():
        with two.permit(tokens=900) as permit:
            permit.settle(tokens=500)

    def try_two():
        two.try_permit(tokens=900)

    cases = {
        "try_permit(), one limit": one.try_permit,
        "try_permit(tokens=900), two limits": try_two,
        "with permit(), one limit": block,
        "with permit(tokens=900): settle(tokens=500), two limits": block_settle,
    }
    ratios = {what: [] for what in cases}
    micros = {what: [] for what in cases}
    empty = Empty().call
    for _ in range(ROUNDS):
        # Interleaved, so that a busy neighbour slows the yardstick too.
        for what, call in cases.items():
            base = timeit.timeit(empty, number=CALLS)
            spent = timeit.timeit(call, number=CALLS)
            ratios[what].append(spent / base)
            micros[what].append(spent / CALLS * 1e6)
    return {what: (statistics.median(ratios[what]), statistics.median(micros[what])) for what in cases}


def crowd(wait):
    """Run WAITERS greenlets of `wait(number)`; return (wall, CPU, numbers as they came through)."""
    passed = []

    def one(number):
        wait(number)
        passed.append(number)

    wall, cpu = time.monotonic(), time.process_time()
    gevent.joinall([gevent.spawn(one, number) for number in range(WAITERS)], raise_error=True)
    return time.monotonic() - wall, time.process_time() - cpu, passed


def through_the_limiter():
    limiter = Limiter("crowd", requests=f"{RATE}/s burst 1")

    def wait(_):
        with limiter.permit():
            pass

    return crowd(wait)


def asleep():
    start = time.monotonic()
    return crowd(lambda number: gevent.sleep(max(0.0, start + number / RATE - time.monotonic())))


def main():
    print(f"Python {platform.python_version()}, gevent {gevent.__version__}, {platform.machine()}")
    for what, (ratio, micros) in uncontended().items():
        print(f"  {what:58} {ratio:6.1f} x an empty call  {micros:6.2f} us")
    ideal = (WAITERS - 1) / RATE
    _, bare_cpu, _ = asleep()
    wall, cpu, passed = through_the_limiter()
    displaced = sum(place != number for place, number in enumerate(passed))
    print(f"  {WAITERS} waiters, {RATE}/s, burst 1: {ideal / wall:.2%} of the rate, {displaced} out of order")
    print(f"  CPU {cpu:.2f} s, {cpu / bare_cpu:.2f} x a bare sleep loop ({bare_cpu:.2f} s)")


if __name__ == "__main__":
    main()
