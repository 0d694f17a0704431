from __future__ import annotations

import time

import pytest

from greenkit.testing import FakeClock


def test_the_clock_moves_only_when_told():
    """Readings are equal until `advance`, then later by exactly that."""
    clock = FakeClock(5)
    assert clock.now() == clock.now() == 5.0
    assert clock.advance(0.25) == clock.now() == 5.25
    assert clock.advance(0) == 5.25


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_the_clock_never_goes_where_no_clock_goes(seconds):
    """Backwards, to infinity or to no number at all it refuses to move."""
    clock = FakeClock(5)
    with pytest.raises(ValueError, match="finite number"):
        clock.advance(seconds)
    assert clock.now() == 5.0


def test_two_clocks_with_one_story_read_the_same():
    """The reading depends on the calls alone, not on the time of day."""
    stories = []
    for _ in range(2):
        clock = FakeClock()
        stories.append([clock.now(), *(clock.advance(step) for step in (1, 0.5, 1e-9))])
    assert stories[0] == stories[1]
    assert stories[0][0] != time.monotonic()
