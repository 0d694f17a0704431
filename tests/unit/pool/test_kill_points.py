"""Whichever greenlet of a batch is struck, at whichever of its switches: all comes back."""

from __future__ import annotations

import gevent
import greenlet
import pytest

from greenkit.limits import Limiter
from greenkit.pool import GreenPool, _child
from greenkit.pool._crew import Crew

ITEMS = list(range(6))
ERRORS = {
    "kill": gevent.GreenletExit,
    "timeout": lambda: gevent.Timeout(1),
    "error": lambda: KeyError("struck"),
}


class Striker:
    """Strike whoever makes the `point`th switch of a batch, while it waits there."""

    def __init__(self, point, error):
        self.point, self.error = point, error
        self.seen, self.victim = 0, None
        self.owner = self.crew = None

    def __call__(self, event, switch):
        who = self.tell(switch[0]) if event == "switch" else None
        if who and not switch[0].dead:
            self.seen += 1
            if self.seen == self.point:
                self.victim = who
                switch[0].kill(self.error, block=False)

    def tell(self, one):
        """Return which of the batch it is; None for what other tests left running."""
        if one is self.owner:
            return "owner"
        if one in self.crew.children:
            return "child"
        return "feeder" if any(one is run._feeder for run in self.crew.runs) else None


def batch(way, striker, *, broken=False):
    """Run a batch under `striker`; return (pool, limiter, what its owner got) when all has ended."""
    limiter = Limiter("storm", requests="1000000/s", concurrency=2)
    pool = GreenPool(3, limiter=limiter)
    if broken:
        pool._crew.__class__ = Forgetful

    def work(item):
        for _ in range(item % 3):
            gevent.sleep(0)
        return item

    def own():
        try:
            with pool:
                if way == "spawn":
                    children = [pool.spawn(work, item) for item in ITEMS]
                    return [child.get() for child in children]
                if way == "stream":
                    return sorted(item for item, _ in pool.stream(work, ITEMS))
                return list(getattr(pool, way)(work, ITEMS))
        except BaseException as error:
            return error

    owner = gevent.Greenlet(own)
    striker.owner, striker.crew = owner, pool._crew
    before = greenlet.settrace(striker)
    try:
        owner.start()
        owner.join(10)
    finally:
        greenlet.settrace(before)
    assert owner.dead, "it never ended"
    return pool, limiter, owner.value


class Forgetful(Crew):
    """Guard the wait for a permit as one easily does: a kill is no Exception."""

    __slots__ = ()

    def _take_on_slot(self, work, timeout, begun, done):
        try:
            child = self._make(work, *self._enter(work, timeout), slot=True)
        except Exception:
            self.line.release()
            raise
        return self._start(child, begun, done)


def strike_everywhere(way, error, *, broken=False):
    """Return (who was struck, at which points something was lost)."""
    victims, lost, point = [], [], 0
    while True:
        point += 1
        striker = Striker(point, ERRORS[error]())
        pool, limiter, value = batch(way, striker, broken=broken)
        if striker.victim is None:
            return victims, lost
        victims.append(striker.victim)
        seen = pool.statistics()
        held = (seen.in_use, seen.waiting, seen.children, limiter.statistics().in_use)
        if not isinstance(value, BaseException) and value != ITEMS:
            lost.append((point, striker.victim, value))  # some of it is missing, and nobody says so
        if any(held) or seen.started != seen.succeeded + seen.failed + seen.killed:
            lost.append((point, striker.victim, held))


@pytest.mark.parametrize("error", sorted(ERRORS))
@pytest.mark.parametrize("way", ["spawn", "map", "imap", "stream"])
def test_whoever_is_struck_wherever_nothing_is_lost(way, error):
    """No slot, permit, child or, unsaid, item is lost at any switch of owner, feeder or children."""
    victims, lost = strike_everywhere(way, error)
    assert not lost
    assert victims.count("owner") >= 3, victims
    assert victims.count("child") >= 3, victims
    assert way == "spawn" or victims.count("feeder") >= 3, victims


@pytest.mark.parametrize("error", ["kill", "timeout"])
def test_a_pool_that_guards_by_exception_is_found_out(error):
    """The twin that forgets its slot when the wait for a permit is struck loses some, and is seen to."""
    _, lost = strike_everywhere("spawn", error, broken=True)
    assert lost


def test_ctrl_c_while_a_kill_is_noted_is_raised_and_not_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may strike on the pool's own lines: the main greenlet hears of it, and slot and child are gone."""

    def struck(_: str) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    with GreenPool(1) as pool:
        child = pool.spawn(gevent.sleep, 60)
        gevent.sleep(0)
        monkeypatch.setattr(_child, "Killed", struck)
        with pytest.raises(KeyboardInterrupt):
            child.kill()
        child.join(timeout=10)
        assert (pool.statistics().in_use, pool.statistics().children) == (0, 0)
        assert isinstance(child.outcome.error, KeyboardInterrupt)
    assert "Traceback" not in capsys.readouterr().err
