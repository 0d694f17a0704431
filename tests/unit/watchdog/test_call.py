"""Naming the C call a thread is in: real threads that stand in real calls until they are let go."""

from __future__ import annotations

import _queue
import functools
import sys
from types import SimpleNamespace

import pytest
from gevent.monkey import get_original

from greenkit.watchdog._look import look

start_thread = get_original("_thread", "start_new_thread")
new_lock = get_original("_thread", "allocate_lock")
get_ident = get_original("_thread", "get_ident")

gate = new_lock()
executed: list[str] = []


class Holder:
    """A gate in every place an attribute can live, and one that must not be touched."""

    __slots__ = ("inner", "slot")
    enter = staticmethod(gate.acquire)

    def __init__(self) -> None:
        self.slot = gate
        self.inner = SimpleNamespace(gate=gate)

    @property
    def lazy(self) -> object:
        executed.append("property")
        return gate

    def __getattr__(self, name: str) -> object:
        executed.append(name)
        return gate

    def plain(self) -> None:
        gate.acquire()

    def in_a_slot(self) -> None:
        self.slot.acquire()

    def deep(self) -> None:
        self.inner.gate.acquire(True, -1)

    def over_lines(self) -> None:
        (
            self.inner
            .gate
            .acquire(
                True,
            )
        )  # fmt: skip

    def static(self) -> None:
        self.enter()

    def partial(self) -> None:
        wait = functools.partial(gate.acquire, True)
        wait()

    def alias(self) -> bool:
        wait = gate.acquire

        def closure() -> bool:
            return wait(True)

        return closure()

    def with_block(self) -> None:
        with gate:
            return

    def queue(self) -> None:
        queue.get(True)

    def of_a_class(self) -> None:
        Made()

    def of_a_property(self) -> None:
        self.lazy.acquire()

    def of_a_call(self) -> None:
        str(gate), [gate].pop().acquire()

    def conditional(self) -> None:
        gate.acquire(*(() if gate else (False,)))


queue = _queue.SimpleQueue()


class Made:
    """A class in Python: while an instance is made and no frame of it runs, the interpreter computes."""

    __new__ = queue.get  # stands in for the collector, which may run there

    def __init__(self) -> None:
        executed.append("init")


CASES = [
    ("plain", "_thread.lock.acquire"),
    ("in_a_slot", "_thread.lock.acquire"),
    ("deep", "_thread.lock.acquire"),
    ("over_lines", "_thread.lock.acquire"),
    ("static", "_thread.lock.acquire"),
    ("partial", "_thread.lock.acquire"),
    ("alias", "_thread.lock.acquire"),
    ("with_block", "_thread.lock.__enter__"),
    ("queue", "queue.SimpleQueue.get"),
    ("of_a_class", ""),
    ("of_a_property", ""),
    ("of_a_call", ""),
    # Two ways through the arguments: without positions in the byte code (3.10) nobody knows which.
    ("conditional", "_thread.lock.acquire" if sys.version_info >= (3, 11) else ""),
]


def seen_in(name: str) -> str:
    """Return the call in which a thread that runs `Holder().<name>()` stands."""
    gate.acquire()
    ident: list[int] = []
    start_thread(lambda: (ident.append(get_ident()), getattr(Holder(), name)(), ident.clear()), ())
    pause, last, same = new_lock(), None, 0
    pause.acquire()
    while same < 20:
        pause.acquire(timeout=0.001)  # lets the thread run on, if it can
        taken = look(ident[0]) if ident else None
        same = same + 1 if taken is not None and taken == last else 0
        last = taken
    assert last is not None
    while ident:
        if gate.locked():
            gate.release()
        queue.put(None)
        pause.acquire(timeout=0.001)
    while not queue.empty():
        queue.get()
    gate.acquire(False)
    gate.release()
    return last.call


@pytest.mark.parametrize(("name", "call"), CASES)
def test_a_call_is_named_as_people_write_it(name: str, call: str) -> None:
    """However it is spelled in the source; where its meaning would have to be computed, not at all."""
    executed.clear()
    assert seen_in(name) == call
    assert executed == (["property"] if name == "of_a_property" else [])
