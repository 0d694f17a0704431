from __future__ import annotations

import pytest

from greenkit.errors import ConfigError
from greenkit.limits import Limiter, Rate, parse_rate


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("500/min", Rate(500, 60, 25)),
        ("90_000/min burst 9_000", Rate(90_000, 60, 9_000)),
        ("200/s", Rate(200, 1, 10)),
        ("10_000/day", Rate(10_000, 86_400, 500)),
        ("1/day", Rate(1, 86_400, 1)),
        ("0.5/s", Rate(0.5, 1, 1)),
        (" 100 / 10 s  burst 1 ", Rate(100, 10, 1)),
        ("3/hour", Rate(3, 3600, 1)),
        ("1_000_000/s burst 1", Rate(1_000_000, 1, 1)),
        ("10/s burst 0.25", Rate(10, 1, 0.25)),
    ],
)
def test_a_rate_is_read_as_it_is_written(text, rate):
    """Amount, period and burst; a burst not given is 5 % of the amount, at least 1."""
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    ("text", "column", "why"),
    [
        ("500/mn", 5, "expected a period"),
        ("500", 4, 'expected "/"'),
        ("/min", 1, "expected an amount"),
        ("500/min brust 5", 9, "burst AMOUNT"),
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
