"""The harness visits every switch point of a call, and finds whoever forgets what it owned at one of them."""

from __future__ import annotations

import gevent
import greenlet
import pytest
from gevent.event import Event
from gevent.lock import Semaphore

from greenkit.testing import kill_at_every_switch


class Ledger:
    """Something to own."""

    def __init__(self):
        self.held = 0

    def settled(self):
        assert self.held == 0, f"{self.held} is still held"


def careful(ledger):
    ledger.held += 1
    try:
        for _ in range(3):
            gevent.sleep(0)
    finally:
        ledger.held -= 1


def test_every_switch_is_visited(capsys):
    """Three sleeps are three points, each by its line; how many is printed."""
    report = kill_at_every_switch(careful, Ledger.settled, fresh=Ledger)
    assert report.points >= 3
    assert [place.split()[-1] for place, _ in report.places] == ["careful"]
    assert report.victims == (("the call", report.points),)
    assert f"visited {report.points} switch points in 1 places" in capsys.readouterr().out


@pytest.mark.parametrize(
    "error", [gevent.GreenletExit, gevent.Timeout, KeyError("struck"), lambda: OSError(5)]
)
def test_whatever_is_thrown(error):
    """A class, an instance, a function that makes one; `except Exception` guards against two of them."""

    def by_exception(ledger):
        ledger.held += 1
        try:
            gevent.sleep(0)
        except Exception:
            ledger.held -= 1
            raise
        ledger.held -= 1

    struck = {"error": error, "fresh": Ledger}
    if error in (gevent.GreenletExit, gevent.Timeout):
        with pytest.raises(AssertionError, match=r"call killed at .*by_exception: .*1 is still held"):
            kill_at_every_switch(by_exception, Ledger.settled, **struck)
    else:
        assert kill_at_every_switch(by_exception, Ledger.settled, **struck).points


def test_a_single_bad_point_among_many_is_found():
    """It is named by its number and its line; the good ones are not."""

    def careless_once(ledger):
        for number in range(5):
            ledger.held += 1
            if number == 3:
                gevent.sleep(0)
                ledger.held -= 1
                continue
            try:
                gevent.sleep(0)
            finally:
                ledger.held -= 1

    with pytest.raises(AssertionError) as told:
        kill_at_every_switch(careless_once, Ledger.settled, fresh=Ledger)
    line = careless_once.__code__.co_firstlineno + 4
    lines = [text for text in str(told.value).splitlines() if text.startswith("point")]
    assert lines
    assert all(f":{line} careless_once" in text for text in lines)


def test_the_kill_comes_between_a_promise_and_its_keeping():
    """A hand-off is complete when the receiver has it: whoever forgets that loses what it was promised."""

    class Line:
        """One thing, handed to the waiter by whoever gives it back."""

        def __init__(self, careful):
            self.careful, self.event = careful, Event()
            self.free = self.given = 0
            self.waiting = self.promised = False

        def give(self):
            self.given = 1
            if self.waiting:
                self.promised = True
                self.event.set()
            else:
                self.free += 1

        def take(self):
            self.waiting = True
            try:
                self.event.wait()
            except BaseException:
                self.waiting = False
                if self.careful and self.promised:
                    self.free += 1
                raise
            self.free += 1

    def visit(line):
        gevent.spawn(line.give)
        line.take()

    def check(line):
        gevent.idle()
        assert line.free == line.given, "what was promised is gone"

    assert kill_at_every_switch(visit, check, fresh=lambda: Line(careful=True)).points >= 2
    with pytest.raises(AssertionError, match="what was promised is gone"):
        kill_at_every_switch(visit, check, fresh=lambda: Line(careful=False))


def test_others_may_be_struck_too():
    """`whom` names them: children of the call, by name, raw greenlets too."""

    class World(Ledger):
        def __init__(self):
            super().__init__()
            self.children = []

    def family(world):
        world.children = [gevent.spawn(careful, world) for _ in range(2)]
        raw = greenlet.greenlet(careful, gevent.get_hub())
        world.raw = raw
        gevent.get_hub().loop.run_callback(raw.switch, world)
        for child in world.children:
            child.join()
        gevent.idle()

    def whom(candidate, world):
        if candidate in world.children:
            return "child"
        return "raw" if candidate is getattr(world, "raw", None) else None

    def check(world):
        gevent.joinall(world.children)
        gevent.idle()
        world.settled()

    report = kill_at_every_switch(family, check, fresh=World, whom=whom)
    assert set(dict(report.victims)) == {"the call", "child", "raw"}
    assert min(dict(report.victims).values()) >= 3


def test_a_call_that_never_waits_proves_nothing():
    """No point visited is a failure."""
    with pytest.raises(AssertionError, match="visited no switch point"):
        kill_at_every_switch(lambda: None, lambda: None)


def test_a_call_that_does_not_end_is_a_failure():
    """It swallows its kill and waits for ever."""
    gate = Semaphore(0)

    def stubborn():
        while True:
            try:
                gate.acquire()
            except gevent.GreenletExit:
                continue

    with pytest.raises(AssertionError, match=r"point 1, the call killed at .*stubborn: the call did not end"):
        kill_at_every_switch(stubborn, lambda: None, timeout=0.01)


def test_a_call_without_an_end_is_given_up():
    """After `most` points."""

    def endless():
        while True:
            gevent.sleep(0)

    with pytest.raises(AssertionError, match="more than 20 switch points"):
        kill_at_every_switch(endless, lambda: None, most=20)


def test_a_call_that_fails_by_itself_is_no_proof():
    """What the last run, which nobody kills, raises comes out."""

    def broken():
        gevent.sleep(0)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        kill_at_every_switch(broken, lambda: None)


def test_a_trace_function_that_was_there_stays():
    """It hears of every switch meanwhile, and is back afterwards."""
    heard = []
    greenlet.settrace(lambda *what: heard.append(what))
    try:
        kill_at_every_switch(careful, Ledger.settled, fresh=Ledger)
        before = len(heard)
        gevent.sleep(0)
        assert len(heard) > before > 3
    finally:
        greenlet.settrace(None)
