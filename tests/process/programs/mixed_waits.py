"""Send native threads with a hub, without one, and with greenlets of their own through the same waits.

Arguments: seed, "patched" or "plain", address of a server for a shared limiter or "-". Prints how often
a turn went from one kind of thread to another; ends with 1 and every stack when somebody is stuck.
"""

from __future__ import annotations

import sys

if sys.argv[2] == "patched":
    import greenkit.auto

import faulthandler
import itertools
import os
import random

import gevent
from gevent import monkey

from greenkit.limits import Limiter
from greenkit.pool import GreenPool
from greenkit.wait import WaitLine, hub_here

start_new_thread = monkey.get_original("_thread", "start_new_thread")
allocate_lock = monkey.get_original("_thread", "allocate_lock")
native_sleep = monkey.get_original("time", "sleep")

PATIENCE = 40.0
SEED, URL = int(sys.argv[1]), sys.argv[3]
PATCHED = sys.argv[2] == "patched"
ROUNDS = 25

passed: list[str] = []
wrong: list[str] = []


class Counted:
    """Note who is inside at once; more than `most` is an error."""

    def __init__(self, most: float, enter) -> None:
        self.most, self.enter, self.inside = most, enter, 0
        self.lock = allocate_lock()

    def visit(self, kind: str, key: int, rest: float) -> None:
        with self.enter(key):
            with self.lock:
                self.inside += 1
                if self.inside > self.most:
                    wrong.append(f"{self.inside} inside of {self.most}")
            passed.append(kind)
            if kind == "greens" and not PATCHED and rest < 0.005:
                gevent.sleep(rest)
            else:
                native_sleep(rest)  # natively: the hub of this thread stands still
            with self.lock:
                self.inside -= 1


def doors() -> list[Counted]:
    rate = Limiter("rate", requests="2000/s burst 1")
    slots = Limiter("slots", requests="5000/s burst 50", concurrency=2)
    keys = Limiter("keys", requests="1000/s burst 1", concurrency=1)
    line = WaitLine(2)
    found = [
        Counted(1e9, lambda _: rate.permit()),
        Counted(2, lambda _: slots.permit(timeout=PATIENCE)),
        Counted(3, lambda key: keys.key(key % 3).permit()),
    ]
    if URL != "-":
        shared = Limiter(f"shared-{SEED}", requests="2000/s burst 5", share=URL)
        found.append(Counted(1e9, lambda _: shared.permit()))
    found.append(Counted(2, lambda _: line.slot(timeout=PATIENCE)))
    return found


def work(kind: str, seed: int, places: list[Counted]) -> None:
    rng = random.Random(seed)
    # Waiting in a `WaitLine` makes a hub, which a thread of this kind is not to have.
    places = places[:-1] if kind == "no hub" else places
    for _ in range(rng.randrange(ROUNDS)):
        rest = 0.02 if rng.random() < 0.05 else rng.random() * 0.002
        rng.choice(places).visit(kind, rng.randrange(3), rest)
    if kind == "no hub" and hub_here() is not None:
        wrong.append("a hub was made")


def crowd(seed: int, places: list[Counted]) -> None:
    """Greenlets of one thread; every second one goes through a pool with a limiter."""
    limiter = Limiter("pool", requests="5000/s burst 1")
    with GreenPool(3, limiter=limiter) as pool:
        list(pool.stream(lambda number: work("greens", seed + number, places), range(3)))


def main() -> None:
    rng = random.Random(SEED)
    kinds = [rng.choice(["hub", "hub", "no hub", "no hub", "greens"]) for _ in range(rng.randrange(4, 9))]
    places, ends = doors(), []
    gevent.get_hub()
    for number, kind in enumerate(kinds):
        ended = allocate_lock()
        ended.acquire()

        def run(kind: str = kind, number: int = number, ended=ended) -> None:
            try:
                if kind == "hub":
                    gevent.get_hub()
                if kind == "greens":
                    crowd(SEED * 100 + number * 10, places)
                else:
                    work(kind, SEED * 100 + number, places)
            except BaseException as error:
                wrong.append(repr(error))
                raise
            finally:
                ended.release()

        ends.append(ended)
        start_new_thread(run, ())
    if PATCHED:
        crowd(SEED * 100 + 90, places)
        while any(ended.locked() for ended in ends):
            gevent.sleep(0.01)
    else:
        for ended in ends:
            ended.acquire()
    for place in places[:2]:
        if place.inside:
            wrong.append("somebody is still inside")
    if wrong:
        sys.exit("\n".join(wrong))
    print(sum(one != two for one, two in itertools.pairwise(passed)), flush=True)
    os._exit(0)  # hubs of threads that have ended are not ours to clear away


faulthandler.dump_traceback_later(PATIENCE, exit=True)
main()
