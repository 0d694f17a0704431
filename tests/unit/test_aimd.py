from __future__ import annotations

import pytest

from greenkit._aimd import AdaptiveSize, Pace


def test_one_burst_of_429s_cuts_the_pace_once():
    """A fifth less per second of trouble, however many were out; recovered by and by, never above 1."""
    pace = Pace()
    assert not pace.slower
    assert pace.cut(100.0)
    assert not pace.cut(100.5)
    assert pace.factor == pytest.approx(0.8)
    assert pace.cut(101.0)
    assert pace.factor == pytest.approx(0.64)
    assert pace.recover(111.0)
    assert pace.factor == pytest.approx(0.74)
    assert pace.recover(1e6)
    assert pace.factor == 1.0
    assert not pace.recover(2e6)


def test_a_pace_never_stops():
    """Trouble for an hour leaves 2 % of the rate."""
    pace = Pace()
    for second in range(3600):
        pace.cut(float(second))
    assert pace.factor == pytest.approx(0.02)


def test_a_ceiling_is_adopted_and_lifted_by_what_the_server_says():
    """Less than configured is kept until the server says more; more than configured is ignored."""
    pace = Pace()
    assert not pace.ceil({"tokens": 2.0}, 0.0)
    assert pace.ceil({"tokens": 0.5}, 0.0)
    assert not pace.ceil({"tokens": 0.5}, 0.0)
    assert (pace.of("tokens"), pace.of("requests")) == (0.5, 1.0)
    assert pace.ceil({"tokens": 1.0}, 0.0)
    assert not pace.slower


def test_a_size_doubles_until_the_first_trouble_and_then_grows_slowly():
    """Slow start, a cut of a fifth at most once a second, one more per round; bounds are kept."""
    size = AdaptiveSize(2, 40)
    assert not size.succeeded(full=False), "the size was no obstacle"
    rounds = []
    for _ in range(4):
        for _ in range(size.size):
            size.succeeded(full=True)
        rounds.append(size.size)
    assert rounds == [4, 8, 16, 32]
    assert size.failed(began=9.0, now=10.0)
    assert size.size == 25
    assert not size.failed(began=9.9, now=10.9)
    for _ in range(26):
        size.succeeded(full=True)
    assert size.size == 26
    for second in range(100):
        size.failed(began=99.0 + second, now=100.0 + second)
    assert size.size == 2
    for _ in range(10_000):
        size.succeeded(full=True)
    assert size.size == 40
