from __future__ import annotations

import pytest

from greenkit.limits._pace import Crowd, Pace


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


def test_a_crowd_doubles_until_the_first_trouble_and_then_grows_slowly():
    """Slow start, a cut of a fifth at most once a second, one more per round; bounds are kept."""
    crowd = Crowd(2, 40)
    assert not crowd.succeeded(1), "the size was no obstacle"
    rounds = []
    for _ in range(4):
        for _ in range(crowd.size):
            crowd.succeeded(40)
        rounds.append(crowd.size)
    assert rounds == [4, 8, 16, 32]
    assert crowd.failed(10.0)
    assert crowd.size == 25
    assert not crowd.failed(10.9)
    for _ in range(26):
        crowd.succeeded(40)
    assert crowd.size == 26
    for second in range(100):
        crowd.failed(100.0 + second)
    assert crowd.size == 2
    for _ in range(10_000):
        crowd.succeeded(40)
    assert crowd.size == 40
