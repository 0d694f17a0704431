"""The mock LLM server's quota arithmetic, on invented times."""

from __future__ import annotations

import math
import random

import pytest

from greenkit.testing._mock_draw import parse_draw
from greenkit.testing._mock_openai import OpenAI, go_duration
from greenkit.testing._mock_rules import Bucket, Quota, Rate, parse_rate
from greenkit.testing._mock_stats import Stats, Window


@pytest.mark.parametrize(
    ("text", "per_second", "burst"),
    [
        ("600/min", 10.0, 10.0),
        ("200/s", 200.0, 200.0),
        ("30/10s", 3.0, 3.0),
        ("30/min", 0.5, 1.0),
        ("90_000/min burst 9_000", 1500.0, 9000.0),
        (" 36/Hour burst 2 ", 0.01, 2.0),
    ],
)
def test_rates_are_read_with_their_burst(text: str, per_second: float, burst: float) -> None:
    """Without a burst, one second's worth may go at once, and at least one."""
    assert parse_rate(text) == Rate(per_second, burst)


@pytest.mark.parametrize(
    "text", ["", "5", "5/fortnight", "-1/s", "0/s", "5/0s", "5/s burst 0", "5/s burst", "x/s"]
)
def test_a_wrong_rate_is_refused(text: str) -> None:
    """What is no rate is a ValueError that shows the text."""
    with pytest.raises(ValueError, match=r"rate|burst"):
        parse_rate(text)


def test_a_bucket_admits_its_burst_and_then_the_rate() -> None:
    """Five go at once, the sixth one interval later."""
    quota = Quota(requests=parse_rate("10/s burst 5"))
    assert [quota.take(100.0, tokens=1).admitted for _ in range(6)] == [True] * 5 + [False]
    refused = quota.take(100.0, tokens=1)
    assert refused.dimension == "requests"
    assert refused.retry_after == pytest.approx(0.1)
    assert quota.take(100.0 + refused.retry_after, tokens=1).admitted


def test_dimensions_are_charged_together_or_not_at_all() -> None:
    """A call refused for its tokens pays no request."""
    quota = Quota(requests=parse_rate("10/s burst 2"), tokens=parse_rate("100/s burst 100"))
    assert quota.take(0.0, tokens=90).admitted
    assert quota.take(0.0, tokens=20).dimension == "tokens"
    assert quota.requests is not None
    assert quota.requests.remaining(0.0) == 1
    assert quota.take(0.0, tokens=10).admitted


def test_a_cost_above_the_burst_is_hopeless() -> None:
    """No wait helps a call that costs more than the burst."""
    quota = Quota(tokens=parse_rate("100/s burst 100"))
    assert quota.take(0.0, tokens=101).hopeless
    assert quota.take(0.0, tokens=100).admitted


@pytest.mark.parametrize("seed", range(50))
def test_no_window_holds_more_than_burst_and_rate(seed: int) -> None:
    """A window of W seconds holds at most burst + rate * W, and waiting as told always helps."""
    rng = random.Random(seed)
    rate = Rate(rng.uniform(0.5, 50.0), float(rng.randint(1, 20)))
    bucket, now, admitted, refused = Bucket(rate), 0.0, list[float](), 0
    for _ in range(300):
        wait = bucket.wait(now, 1.0)
        if wait > 0.0:
            refused += 1
            now = now + wait + 1e-9
            assert bucket.wait(now, 1.0) == 0.0
        bucket.pay(now, 1.0)
        admitted.append(now)
        now += rng.expovariate(rate.per_second * rng.choice([0.5, 2.0, 20.0]))
    assert refused > 0, "the quota was never met"
    for first in range(0, len(admitted), 7):
        for last in range(first, len(admitted), 5):
            allowed = rate.burst + rate.per_second * (admitted[last] - admitted[first])
            assert last - first + 1 <= allowed + 1e-6


def test_headers_tell_limit_remaining_and_reset() -> None:
    """OpenAI's headers give the limit per minute, what may go now, and when it is whole again."""
    quota = Quota(requests=parse_rate("600/min burst 3"))
    quota.take(5.0, tokens=1)
    assert OpenAI().quota_headers(quota, 5.0, wall=0.0) == (
        "x-ratelimit-limit-requests: 600\r\n"
        "x-ratelimit-remaining-requests: 2\r\n"
        "x-ratelimit-reset-requests: 100ms\r\n"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0s"), (0.0001, "1ms"), (0.012, "12ms"), (1.5, "1.5s"), (360.0, "6m0s"), (3661.25, "1h1m1.25s")],
)
def test_durations_are_written_as_go_does(seconds: float, text: str) -> None:
    """Go durations round up to a millisecond."""
    assert go_duration(seconds) == text


@pytest.mark.parametrize("text", ["0.5", "uniform:0.2:0.8", "lognormal:0.5:0.3"])
def test_draws_are_repeatable_and_have_the_right_middle(text: str) -> None:
    """The same seed draws the same values, half of them below the median."""
    draw = parse_draw(text)
    values = [draw.sample(rng) for rng in [random.Random(1)] for _ in range(2001)]
    assert values == [draw.sample(rng) for rng in [random.Random(1)] for _ in range(2001)]
    assert sorted(values)[1000] == pytest.approx(0.5, rel=0.1)
    assert min(values) >= 0.0


@pytest.mark.parametrize(
    "text", ["", "fast", "-1", "nan", "inf", "uniform:1", "uniform:2:1", "lognormal:1:2:3", "pareto:1:1"]
)
def test_a_wrong_draw_is_refused(text: str) -> None:
    """What is no distribution is a ValueError that shows the text."""
    with pytest.raises(ValueError, match=r"distribution|uniform"):
        parse_draw(text)


@pytest.mark.parametrize("seed", range(20))
def test_the_worst_window_is_the_brute_force_one(seed: int) -> None:
    """The running window finds what looking at every window finds."""
    rng = random.Random(seed)
    times = [0.0]
    for _ in range(200):
        times.append(times[-1] + rng.choice([0.0, 0.25, 0.5, rng.random()]))
    window = Window(1.0)
    for now in times:
        window.add(now)
    assert window.worst == max(sum(1 for t in times if start <= t < start + 1.0) for start in times)


def test_a_repeat_is_the_second_work_for_a_key() -> None:
    """Three works for one key are two repeats; no key is never a repeat."""
    stats = Stats()
    for key in ["a", "b", "a", None, None, "a"]:
        stats.work(key)
    page = stats.page()
    assert (page["keys"], page["repeats"], page["repeated_keys"]) == (2, 2, {"a": 3})


def test_a_reset_keeps_what_is_in_flight() -> None:
    """Counters begin anew without calls in flight going below zero."""
    stats = Stats()
    stats.calls = 3
    for now in (0.0, 0.1):
        stats.admit(now, tokens=5)
    fresh = stats.successor().page()
    assert (fresh["calls"], fresh["in_flight"], fresh["admitted"]) == (2, 2, 0)
    assert not math.isnan(fresh["span"])
