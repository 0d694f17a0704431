"""What counts as a block, and what as a machine that is too busy."""

from __future__ import annotations

import gevent
import pytest

from greenkit.watchdog._sentry import Observers, Pulse, Sentry
from greenkit.watchdog._usage import Meter


@pytest.fixture
def sentry():
    """Give a sentry of this thread that has not started."""
    one = Sentry(Pulse(), gevent.get_hub(), threshold=0.1, interval=0.02, observers=Observers())
    one._meter = Meter()
    return one


@pytest.mark.parametrize(
    ("runnable", "passed", "worked", "starved"),
    [
        (True, 0.3, 0.1, 0.2),  # it wanted a processor, and others had it
        (True, 0.3, 0.3, 0.0),  # it had one all the time: a busy loop is a block
        (False, 0.02, 0.0, 0.0),  # it sleeps in a call: a block
        (False, 0.3, 0.0, 0.28),  # we slept longer than we asked for: nobody here got a processor
        (False, 0.3, 0.28, 0.0),  # it kept the interpreter to itself
    ],
)
def test_a_thread_that_waits_for_a_processor_is_not_blocked(
    sentry, monkeypatch, runnable, passed, worked, starved
):
    """Seconds without a processor are nobody's fault; seconds at work, or asleep in a call, are."""
    monkeypatch.setattr(sentry, "_is_runnable", lambda: runnable)
    assert sentry._starved(passed, worked) == pytest.approx(starved)


def test_a_thread_that_runs_is_runnable_and_one_that_is_gone_is_not(sentry):
    """The state is read from the system; a thread without one is not said to wait for a processor."""
    assert sentry._is_runnable()
    sentry._meter.task = 0
    assert not sentry._is_runnable()
