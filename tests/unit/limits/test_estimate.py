from __future__ import annotations

import random

import pytest

from greenkit.limits import Limiter
from greenkit.limits._statistics import Estimate


def test_an_estimate_is_what_nine_of_ten_recent_calls_did_not_exceed():
    """Against a sorted copy of the last calls, and never above `most`."""
    rng = random.Random(3)
    estimate = Estimate(500, most=900, memory=50)
    assert estimate.value == 500
    seen = []
    for _ in range(300):
        seen.append(float(rng.randrange(1200)))
        estimate.learn(seen[-1])
        recent = sorted(seen[-50:])
        at_or_below = sum(one <= estimate.value for one in recent)
        assert estimate.value == 900 or at_or_below / len(recent) >= 0.9
        assert estimate.value in [*recent, 900]


def test_settle_teaches_the_estimate_a_guess_came_from():
    """What was known of a call is not learnt again."""
    llm = Limiter("a", requests="100/s", tokens="1_000_000/s")
    answer = llm.estimate(500, most=4096)
    for real in (300, 320, 340):
        with llm.permit(tokens=answer.guess(100)) as permit:
            permit.settle(tokens=100 + real)
    assert answer.value == 340
    assert answer.guess(100) == 440
    with llm.permit(tokens=answer.guess(100)) as permit:
        permit.settle(requests=1)
    assert answer.value == 340, "only the dimension that was guessed teaches"


@pytest.mark.parametrize("wrong", [{"first": -1}, {"first": 9, "most": 5}, {"first": 1, "share": 0}])
def test_an_estimate_out_of_range_is_refused(wrong):
    """Values that could never be right are said at once."""
    with pytest.raises(ValueError, match="must be"):
        Estimate(**wrong)
