"""No kill at any point costs a `WaitLine` a slot.

The race that matters: a waiter is promised a slot and killed before its greenlet runs again.
Each storm counts how often that really happened, and the same storm against a twin that forgets
to pass the promise on must lose slots: a test that cannot fail proves nothing.
"""

from __future__ import annotations

import random
from typing import Any

import gevent
import pytest
from gevent.monkey import get_original

from greenkit.errors import WaitTimeout
from greenkit.testing import kill_at_every_switch
from greenkit.wait import WaitLine

SEEDS = range(300)


class CountedLine(WaitLine):
    """The real line, counting waiters that leave although a slot was promised to them."""

    __slots__ = ("races",)

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.races = 0

    def _leave(self, waiter: Any, *, keep_grant: bool = False) -> bool:
        self.races += waiter.granted
        return super()._leave(waiter, keep_grant=keep_grant)


class ForgetfulLine(CountedLine):
    """The broken twin: a dying waiter takes the promised slot with it."""

    __slots__ = ()

    def _leave(self, waiter: Any, *, keep_grant: bool = False) -> bool:
        if waiter.granted:
            self.races += 1
            return False
        return super()._leave(waiter, keep_grant=keep_grant)


def visit(line: WaitLine, dice: random.Random, inside: list[int]) -> None:
    """Come and go a few times, with every kind of patience."""
    for _ in range(4):
        patience = dice.choice([None, None, 0.0, 0.0001, 0.001])
        try:
            with gevent.Timeout(dice.choice([None, 0.0005]), False), line.slot(timeout=patience):
                inside[0] += 1
                inside[1] = max(inside[1], inside[0])
                try:
                    for _ in range(dice.randrange(3)):
                        gevent.sleep(0)
                finally:
                    inside[0] -= 1
        except WaitTimeout:
            gevent.sleep(0)


def storm(line: WaitLine, seed: int, *, patience: float = 20.0) -> int:
    """Send a crowd through `line` and kill at random moments; return the most inside at once."""
    dice = random.Random(seed)
    inside = [0, 0]
    crowd = [gevent.spawn(visit, line, random.Random(dice.random()), inside) for _ in range(15)]
    for _ in range(40):
        for _ in range(dice.randrange(3)):
            gevent.sleep(0)
        dice.choice(crowd).kill(block=False)
    gevent.joinall(crowd, timeout=patience)
    gevent.killall(crowd)
    return inside[1]


def test_storms_of_kills_cost_no_slot_and_let_nobody_in_too_many() -> None:
    """Over hundreds of seeds every slot comes back and the bound holds at every instant."""
    races = 0
    for seed in SEEDS:
        line = CountedLine(1 + seed % 3)
        peak = storm(line, seed)
        seen = line.statistics()
        assert (seen.free, seen.in_use, seen.waiting) == (seen.size, 0, 0), f"seed {seed}: {line!r}"
        assert peak <= seen.size, f"seed {seed}: {peak} inside a line of {seen.size}"
        races += line.races
    assert races > len(SEEDS) / 10, f"the race under test happened only {races} times"


def test_the_broken_twin_loses_slots_in_the_same_storms() -> None:
    """The storms above see a line that drops promised slots."""
    for seed in SEEDS:
        line = ForgetfulLine(1 + seed % 3)
        # Visitors without a timeout wait for ever for a lost slot: do not wait for them.
        storm(line, seed, patience=0.1)
        if line.statistics().in_use:
            return
    pytest.fail("the twin kept all its slots: the storm proves nothing")


class Crowd:
    """Six visitors who pass a line of one slot, one by one."""

    def __init__(self, line: CountedLine) -> None:
        self.line = line
        self.order: list[int] = []
        self.visitors: list[gevent.Greenlet] = []

    def walk(self, number: int) -> None:
        with self.line.slot(timeout=None):
            self.order.append(number)
            gevent.sleep(0)

    def come(self) -> None:
        self.visitors = [gevent.spawn(self.walk, number) for number in range(6)]
        gevent.joinall(self.visitors)

    def name(self, greenlet: Any) -> str | None:
        return f"visitor {self.visitors.index(greenlet)}" if greenlet in self.visitors else None

    def check(self) -> None:
        gevent.joinall(self.visitors, timeout=20)
        assert all(visitor.dead for visitor in self.visitors), f"some wait for ever: {self.line!r}"
        alive = [n for n, visitor in enumerate(self.visitors) if not isinstance(visitor.value, BaseException)]
        passed = [number for number in self.order if number in alive]
        assert passed == alive, "out of order, or left out"
        seen = self.line.statistics()
        assert (seen.free, seen.waiting) == (1, 0), f"{self.line!r}"


def test_every_visitor_killed_at_every_switch_lets_the_others_pass_in_order() -> None:
    """Exhaustively: whoever dies whenever, the rest is served, in order."""
    crowds: list[Crowd] = []

    def fresh() -> Crowd:
        crowds.append(Crowd(CountedLine(1)))
        return crowds[-1]

    report = kill_at_every_switch(
        Crowd.come, Crowd.check, fresh=fresh, whom=lambda who, crowd: crowd.name(who)
    )
    assert {name for name, _ in report.victims} == {"the call", *(f"visitor {n}" for n in range(6))}
    assert sum(crowd.line.races for crowd in crowds) >= 5, "hardly a promised slot was ever given up"


def test_a_line_that_forgets_a_promise_is_found_out_at_its_switch() -> None:
    """The twin loses a slot at some of those points, and is seen to."""
    with pytest.raises(AssertionError, match=r"visitor \d killed at .*the call did not end"):
        kill_at_every_switch(
            Crowd.come, Crowd.check, fresh=lambda: Crowd(ForgetfulLine(1)),
            whom=lambda who, crowd: crowd.name(who), timeout=0.1,
        )  # fmt: skip


@pytest.mark.parametrize("line_type", [CountedLine, ForgetfulLine])
def test_a_waiter_killed_in_the_instant_of_its_hand_off(line_type: type[CountedLine]) -> None:
    """The promised slot of a waiter that dies unrun reaches the next in line (the twin's does not)."""
    line = line_type(1)
    line.acquire(timeout=0)
    served: list[str] = []

    def wait(name: str) -> None:
        with line.slot(timeout=0.05):
            served.append(name)

    first, second = gevent.spawn(wait, "first"), gevent.spawn(wait, "second")
    gevent.sleep(0)
    first.kill(block=False)  # arrives in the hub before ...
    line.release()  # ... the wake-up of the slot that is promised here
    try:
        second.get()
        passed_on = True
    except WaitTimeout:
        passed_on = False
    assert line.races == 1, "the race under test never happened"
    assert passed_on == (line_type is CountedLine)


def test_native_threads_share_a_line_without_losing_slots() -> None:
    """Four hubs in four native threads hammer one line with short patience; all slots return."""
    line = CountedLine(2)
    start = get_original("_thread", "start_new_thread")
    lock = get_original("_thread", "allocate_lock")
    done = []
    passed = [0] * 4

    def hammer(me: int, finished: Any) -> None:
        dice = random.Random(me)

        def visit_often() -> None:
            for _ in range(150):
                try:
                    with line.slot(timeout=dice.choice([None, 0.0002])):
                        passed[me] += 1
                        gevent.sleep(0)
                except WaitTimeout:
                    gevent.sleep(0)

        gevent.joinall([gevent.spawn(visit_often) for _ in range(4)])
        gevent.get_hub().destroy(destroy_loop=True)
        finished.release()

    gevent.get_hub()  # the main hub first: several first hubs at once can dead-lock on imports
    for me in range(4):
        finished = lock()
        finished.acquire()
        done.append(finished)
        start(hammer, (me, finished))
    for finished in done:
        assert finished.acquire(timeout=60), "a hub gave up"
    assert min(passed) > 0
    assert line.statistics().free == 2
