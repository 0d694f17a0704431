"""Build tuples out of generators while a thread looks for the running greenlet; prints what was seen as JSON.

`twin`: with the list of all objects held in byte code.

A tuple under construction that somebody else holds cannot be cut to its length: CPython (to 3.13) raises
SystemError in the program. One that a collection has just moved is the last object the collector knows.
"""

from __future__ import annotations

import gc
import json
import sys

import gevent
from gevent.monkey import get_original

from greenkit import _heap
from greenkit.watchdog import _frames

LOOKS = int(sys.argv[1])
seen = {"looks": 0, "tuples": 0, "moved": 0, "spoilt": 0}
ended: list[bool] = []


def parts(fresh: list[object]):
    gc.collect(1)  # what is young now, the tuple with it, goes to the end of the oldest generation
    seen["moved"] += 1
    yield from fresh


def watch(hub: object) -> None:
    while seen["looks"] < LOOKS:
        _frames.running_greenlet(hub)
        seen["looks"] += 1
    ended.append(True)


if "twin" in sys.argv:  # the usual way: a list of everything, in byte code
    _heap.instances = _frames.instances = lambda kinds, _: [
        it for it in gc.get_objects() if type(it) in kinds
    ]
sys.setswitchinterval(1e-5)
get_original("_thread", "start_new_thread")(watch, (gevent.get_hub(),))
while not ended:
    try:
        seen["tuples"] += len(tuple(parts([1, 2]))) == 2
    except SystemError:
        seen["spoilt"] += 1
print(json.dumps(seen))
