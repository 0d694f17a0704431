"""Whichever greenlet of a batch is struck, at whichever of its switches: all comes back."""

from __future__ import annotations

import contextlib

import gevent
import pytest

from greenkit.limits import Limiter
from greenkit.pool import GreenPool, _child
from greenkit.pool._workers import Workers
from greenkit.testing import kill_at_every_switch

ITEMS = list(range(9))
WAYS = ("spawn", "map", "imap", "stream")
ERRORS = {
    "kill": gevent.GreenletExit,
    "timeout": lambda: gevent.Timeout(1),
    "error": lambda: KeyError("struck"),
}


class Batch:
    """A pool of three under a limiter of two, and what whoever ran the batch got."""

    def __init__(self, *, broken=False):
        self.limiter = Limiter("storm", requests="1000000/s", concurrency=2)
        self.pool = GreenPool(3, limiter=self.limiter)
        self.value = None
        if broken:
            self.pool._workers.__class__ = Forgetful

    def run(self, way):
        with self.pool:
            if way == "spawn":
                children = [self.pool.spawn(work, item) for item in ITEMS]
                self.value = [child.get() for child in children]
            elif way == "stream":
                self.value = sorted(item for item, _ in self.pool.stream(work, ITEMS))
            else:
                self.value = list(getattr(self.pool, way)(work, ITEMS))

    def own(self, way):
        """Stream the batch; an error that strikes somebody else comes out here, and fails no test."""
        with contextlib.suppress(gevent.Timeout, Exception):
            self.run(way)

    def name(self, greenlet):
        if greenlet in self.pool._workers.children:
            return "child"
        return "feeder" if any(greenlet is run._feeder for run in self.pool._workers.runs) else None

    def check(self):
        """Nothing is held, every child is accounted for, and a value that was returned is whole."""
        seen = self.pool.statistics()
        held = (seen.in_use, seen.waiting, seen.children, self.limiter.statistics().in_use)
        assert not any(held), held
        assert seen.started == seen.succeeded + seen.failed + seen.killed
        assert self.value in (None, ITEMS), "some of it is missing, and nobody says so"


def work(item):
    for _ in range(1 + item % 3):
        gevent.sleep(0)
    return item


def strike_everywhere(way, error, *, broken=False):
    """Strike owner, feeder and children at every switch; return how often each was."""
    report = kill_at_every_switch(
        lambda batch: batch.own(way), Batch.check, fresh=lambda: Batch(broken=broken), error=error,
        whom=lambda who, batch: batch.name(who),
    )  # fmt: skip
    return dict(report.victims)


class Forgetful(Workers):
    """Guard the wait for a permit as one easily does: a kill is no Exception."""

    __slots__ = ()

    def _admit(self, mine, work, *, timeout):
        self._seat(mine, work, timeout)
        try:
            self._enter(mine, work, timeout)
        except Exception:
            self._give_back(mine)
            raise


@pytest.mark.parametrize("error", sorted(ERRORS))
@pytest.mark.parametrize("way", WAYS)
def test_whoever_is_struck_wherever_nothing_is_lost(way, error):
    """No slot, permit, child or, unsaid, item is lost at any switch of owner, feeder or children."""
    victims = strike_everywhere(way, ERRORS[error])
    assert victims["the call"] >= 3, victims
    assert victims["child"] >= 3, victims
    assert way == "spawn" or victims["feeder"] >= 3, victims


@pytest.mark.parametrize("error", ["kill", "timeout"])
def test_a_pool_that_guards_by_exception_is_found_out(error):
    """The twin that forgets its slot when the wait for a permit is struck loses some, and is seen to."""
    with pytest.raises(AssertionError, match=r"point \d+, \w"):
        strike_everywhere("spawn", ERRORS[error], broken=True)


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
