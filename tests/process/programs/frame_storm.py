"""Look again and again at a thread whose stack never stays; prints what was seen as JSON.

Deep recursion, generators, sorts that switch in their comparison, greenlets that are born and die, garbage
with finalizers, and a switch interval so short that the interpreter hands over all the time.
"""

from __future__ import annotations

import gc
import json
import random
import sys

import gevent
import greenlet
from gevent.monkey import get_original

from greenkit.watchdog._frames import running_greenlet, take
from greenkit.watchdog._look import look

LOOKS = int(sys.argv[1])
start_thread = get_original("_thread", "start_new_thread")
new_lock = get_original("_thread", "allocate_lock")
get_ident = get_original("_thread", "get_ident")
over: list[dict[str, object]] = []


class Key:
    def __init__(self, value: float) -> None:
        self.value = value

    def __lt__(self, other: Key) -> bool:
        if random.random() < 0.01:
            gevent.sleep(0)
        return self.value < other.value


class Garbage:
    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        sum(range(5))


def deep(levels: int) -> None:
    if levels:
        deep(levels - 1)
    else:
        gevent.sleep(0)


def nested(levels: int):
    if levels:
        yield from nested(levels - 1)
    yield levels
    gevent.sleep(0)


def storm() -> None:
    while not over:
        random.choice(
            (
                lambda: list(nested(30)),
                lambda: deep(random.randrange(300)),
                lambda: sorted(Key(random.random()) for _ in range(30)),
                lambda: [Garbage() for _ in range(20)],
                lambda: gevent.spawn(deep, 20).join(),
            )
        )()
        gevent.sleep(0)


def ping_pong() -> None:
    me = greenlet.getcurrent()

    def pong() -> None:
        while True:
            me.switch()

    other = greenlet.greenlet(pong)
    while not over:
        for _ in range(50):
            other.switch()
        greenlet.greenlet(lambda: list(nested_plain(5))).switch()
        gevent.sleep(0)
    other.throw()


def nested_plain(count: int):
    yield from range(count)


def watch(thread: int, hub: object) -> None:
    shapes, calls = set(), 0
    pause = new_lock()
    pause.acquire()
    for number in range(LOOKS):
        frames = take(thread)
        shapes.add(len(frames))
        del frames
        if number % 8 == 0:
            seen = look(thread)
            calls += bool(seen and seen.call)
        if number % 512 == 0:
            running_greenlet(hub)
        if number % 3 == 0:
            pause.acquire(timeout=1e-5)  # the others get the interpreter
    over.append({"looks": LOOKS, "shapes": len(shapes), "calls": calls, "gc": gc.isenabled()})


if __name__ == "__main__":
    sys.setrecursionlimit(5000)
    sys.setswitchinterval(1e-5)
    start_thread(watch, (get_ident(), gevent.get_hub()))
    gevent.joinall([gevent.spawn(storm) for _ in range(20)] + [gevent.spawn(ping_pong) for _ in range(5)])
    print(json.dumps(over[0]))
