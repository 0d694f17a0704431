from __future__ import annotations

import pytest

from greenkit.errors import ConfigError, CostTooHighError
from greenkit.limits import Limiter, Rate, parse_rate
from greenkit.testing import FakeClock


@pytest.fixture
def clock():
    return FakeClock()


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("500/min", Rate(500, 60)),
        ("90_000/min burst 9_000", Rate(90_000, 60, 9_000)),
        ("0.5/s", Rate(0.5, 1)),
        (" 100 / 10 s  burst 1 ", Rate(100, 10, 1)),
        ("3/hour", Rate(3, 3600)),
        ("1_000_000/s burst 1", Rate(1_000_000, 1, 1)),
        ("10/s burst 0.25", Rate(10, 1, 0.25)),
        ("10k TPM", Rate(10_000, 60)),
        ("10 k/min", Rate(10_000, 60)),
        ("2M TPM", Rate(2e6, 60)),
        ("1.5K/s burst 1k", Rate(1_500, 1, 1_000)),
        ("1,000/min", Rate(1_000, 60)),
        ("1,000,000.5/day", Rate(1_000_000.5, 86_400)),
        ("500 rpm", Rate(500, 60)),
        ("500rpm burst 5", Rate(500, 60, 5)),
        ("9 RPD", Rate(9, 86_400)),
        ("20 QPS", Rate(20, 1)),
        ("500/MIN", Rate(500, 60)),
        ("500 per Minute", Rate(500, 60)),
        ("100/week", Rate(100, 604_800)),
        ("1e6/day", Rate(1e6, 86_400)),
        ("$0.50/min", Rate(0.5, 60)),
    ],
)
def test_a_rate_is_read_as_it_is_written(text, rate):
    """Amount, period and burst, in every spelling providers and people use."""
    assert parse_rate(text) == rate
    assert parse_rate(str(rate)) == Rate(rate.amount, rate.period)


@pytest.mark.parametrize(
    ("text", "burst", "largest"),
    [
        ("3/min", 3, 3),
        ("10/min", 5, 10),
        ("60/min", 1, 60),
        ("500/min", 1, 500),
        ("5_000/min", 0.05 * 5_000 / 60, 5_000),
        ("83/s", 0.05 * 83, 83),
        ("200/s", 10, 200),
        ("90_000/min", 75, 90_000),
        ("10_000/day", 5, 10_000),
        ("1/day", 1, 1),
        ("0.5/s", 0.5, 1),
        ("90_000/min burst 9_000", 9_000, 9_000),
    ],
)
def test_the_burst_follows_from_the_rate_and_not_from_how_it_is_written(text, burst, largest):
    """A twentieth of a second where servers may count by the second; a few where none can."""
    rate = parse_rate(text)
    assert (rate.burst, rate.largest) == pytest.approx((burst, largest))


def test_three_a_minute_are_three_at_once(clock):
    """And the fourth comes when one has come back."""
    limiter = Limiter("a", requests="3/min", clock=clock)
    assert all(limiter.try_permit() for _ in range(3))
    assert limiter.try_permit().retry_after == pytest.approx(20)


@pytest.mark.parametrize("text", ["60/min", "600/min", "5_000/min", "83/s", "1_000/s"])
def test_a_server_that_counts_by_the_second_is_not_surprised(clock, text):
    """After idleness no second holds more than it brings, but for a twentieth and one."""
    limiter = Limiter("a", requests=text, clock=clock)
    rate = parse_rate(text)
    brought = rate.amount / rate.period
    granted = 0
    while clock.now() < 1_001.0 - 1e-6:
        permit = limiter.try_permit()
        granted += bool(permit)
        if not permit:
            clock.advance(permit.retry_after)
    assert granted <= brought + max(1e-9, 0.05 * brought) + 1
    assert granted >= brought * 0.99


def test_one_call_may_cost_more_than_the_burst_and_owes_it_afterwards(clock):
    """It goes when the budget is full; who comes next waits for all of it."""
    limiter = Limiter("a", tokens="90_000/min", clock=clock)
    assert limiter.try_permit(tokens=5_000)
    assert limiter.try_permit(tokens=75).retry_after == pytest.approx(5_000 / 1_500, rel=1e-6)
    assert limiter.try_permit(tokens=5_000).retry_after == pytest.approx(5_000 / 1_500, rel=1e-6)
    clock.advance(5_000 / 1_500)
    assert limiter.try_permit(tokens=5_000)
    with pytest.raises(CostTooHighError, match=r"tokens=90001 exceeds all of 90000/min"):
        limiter.permit(tokens=90_001)


def test_the_error_names_the_burst_that_was_meant():
    """One that was given, or the one strict has when none is."""
    with pytest.raises(
        CostTooHighError, match=r"tokens=9 exceeds the burst of 5 that was given to 90000/min"
    ):
        Limiter("a", tokens="90_000/min burst 5").permit(tokens=9)
    with pytest.raises(CostTooHighError, match=r"tokens=9 exceeds the burst of 5 that strict 100/min has"):
        Limiter("a", tokens="100/min", strict=True).permit(tokens=9)


@pytest.mark.parametrize(
    ("text", "column", "why"),
    [
        ("500/mn", 5, "expected a period"),
        ("500", 4, 'expected "/"'),
        ("/min", 1, "expected an amount"),
        ("500/min brust 5", 9, "burst AMOUNT"),
        ("500/mni", 5, 'the "n" after "m" is at fault'),
        ("500/xmin", 5, '"xmin" is at fault'),
        ("500 rpx", 5, 'not "rpx"'),
        ("10m/min", 3, "write M for a million"),
        ("500/M", 5, "a minute or a month"),
        ("100/month", 5, "no fixed length"),
        ("100/ms", 5, "finer than a period"),
        ("1,5/min", 2, "a comma stands between thousands"),
        ("1,0000/min", 2, "a comma stands between thousands"),
        ("500/min, 1_000/day", 8, "give several as a list"),
        ("1e400/day", 1, "more than a number can hold"),
        ("10K5/min", 4, 'expected "/"'),
        ("500/min burst", 14, "expected a burst"),
        ("500/min burst 0", 15, "burst of 0"),
        ("500/min burst 5 x", 17, "expected the end"),
        ("0/min", 1, "pause()"),
        ("5/0s", 3, "a period of 0"),
        ("-5/s", 1, "expected an amount"),
        ("", 1, "expected an amount"),
        ("9999999999/s", 1, "finer than a clock"),
    ],
)
def test_an_error_points_at_its_column(text, column, why):
    """The message shows the text and a caret under what is wrong."""
    with pytest.raises(ConfigError) as caught:
        parse_rate(text)
    message = str(caught.value)
    assert why in message
    _, shown, caret, *_ = message.splitlines()
    assert shown[4:] == text
    assert caret.index("^") == 4 + column - 1
    assert f"column {column}" in caret


@pytest.mark.parametrize("values", [(0, 1), (1, 0), (float("nan"), 1), (1, 1, 0.0), (1, float("inf"))])
def test_a_rate_out_of_range_is_refused(values):
    """Rates made by hand are held to the same ranges."""
    with pytest.raises(ConfigError):
        Rate(*values)


def test_a_burst_below_one_is_for_what_may_cost_less():
    """Requests cost 1, so theirs cannot be; fractions of other things pass."""
    with pytest.raises(ConfigError, match="each request costs 1"):
        Limiter("a", requests="10/s burst 0.5")
    limiter = Limiter("a", gigabytes="10/day burst 0.5")
    assert limiter.try_permit(gigabytes=0.5)
    assert not limiter.try_permit(gigabytes=0.5)
