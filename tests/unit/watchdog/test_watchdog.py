"""A hub that is really blocked, and one that is not."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import gevent
import pytest

from greenkit import facts, watchdog

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def dog() -> Iterator[watchdog.Watchdog]:
    """Give a watching watchdog with a short threshold."""
    made = watchdog.start(threshold=0.02)
    yield made
    watchdog.stop()


def hog(dog: watchdog.Watchdog) -> None:
    """Hold the hub until the native thread has caught this line in the act."""
    end = time.monotonic() + 10
    while dog._seen is None and time.monotonic() < end:
        pass


def test_a_block_is_told_once_with_its_line(dog: watchdog.Watchdog) -> None:
    """One block, one fact, naming the function that held the hub."""
    told: list[facts.HubBlocked] = []
    unsubscribe = facts.subscribe(told.append)  # type: ignore[arg-type]
    gevent.sleep(0)
    gevent.spawn(hog, dog).join()
    while not told:
        gevent.sleep(0)
    unsubscribe()
    assert [one.where.rpartition(" ")[2] for one in told] == ["hog"]
    assert "test_watchdog.py" in told[0].where
    seen = dog.statistics()
    assert seen.blocks == 1
    assert seen.worst_lag >= seen.threshold
    assert "hog" in seen.worst_where


def test_it_can_be_seen_and_ends() -> None:
    """snapshot() shows a running watchdog; stop() leaves none, and starting again replaces it."""
    first = watchdog.start(threshold=5)
    second = watchdog.start(threshold=6)
    assert watchdog.running() is second
    assert "stopped" in repr(first)
    assert 6 in [one["threshold"] for one in facts.snapshot()["watchdog"].values()]
    watchdog.stop()
    assert watchdog.running() is None


def test_a_threshold_of_nothing_is_refused() -> None:
    """Zero would report every switch."""
    with pytest.raises(ValueError, match="threshold is 0"):
        watchdog.Watchdog(0)
