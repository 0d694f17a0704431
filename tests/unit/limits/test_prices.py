"""Money as a dimension: estimated from a table before, settled by the usage after."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenkit.errors import ConfigError, CostTooHighError
from greenkit.limits import Limiter, Price, Prices
from greenkit.testing import FakeClock

PRICES = Prices(
    {
        "gpt-x": Price(input=2.50, output=10.00, cached_input=0.25),
        "claude-x": Price(input=3, output=15, cached_input=0.3, cache_write=3.75),
        "plain": Price(input=1, output=2, request=0.005),
    }
)


@pytest.mark.parametrize(
    ("model", "usage", "dollars"),
    [
        ("gpt-x", {"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1500}, "0.0075"),
        ("gpt-x-2026-01-31", {"prompt_tokens": 1000, "completion_tokens": 0}, "0.0025"),
        (
            "gpt-x",
            {
                "prompt_tokens": 1000,
                "completion_tokens": 500,
                "prompt_tokens_details": {"cached_tokens": 800},
            },
            "0.0057",
        ),
        (
            "gpt-x-latest",
            SimpleNamespace(
                input_tokens=1000, output_tokens=500, input_tokens_details=SimpleNamespace(cached_tokens=800)
            ),
            "0.0057",
        ),
        (
            "claude-x-20260131",
            SimpleNamespace(
                input_tokens=100,
                output_tokens=10,
                cache_read_input_tokens=1000,
                cache_creation_input_tokens=200,
            ),
            "0.0015",
        ),
        (
            "claude-x",
            {"input_tokens": 100, "output_tokens": 10, "cache_read_input_tokens": None},
            "0.00045",
        ),
        (
            "plain",
            {"prompt_token_count": 100, "candidates_token_count": 10, "thoughts_token_count": 5},
            "0.00513",
        ),
        ("plain", {"input_tokens": 7}, "0.005007"),
    ],
)
def test_the_usage_of_every_provider_is_paid(model, usage, dollars):
    """Each counts what came from its cache in its own way."""
    assert PRICES.of(model, usage) == pytest.approx(float(Fraction(dollars)), rel=1e-12)


def test_an_unknown_model_costs_an_error_and_not_nothing():
    """An estimate of 0 would let everything through; a smaller sister has prices of its own."""
    for model in ("gpt-x-mini", "gpt-y", ""):
        with pytest.raises(ConfigError, match=r"this table has gpt-x, claude-x, plain"):
            PRICES.estimate(model, input=1)
    for usage in ({}, None, {"prompt_tokens": "7"}, {"prompt_tokens": True}, {"total_tokens": 9}):
        with pytest.raises(ValueError, match="tells no tokens"):
            PRICES.of("gpt-x", usage)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Price(input=-1), "input is a price"),
        (lambda: Price(input=1, output=float("nan")), "output is a price"),
        (lambda: Price(input="much"), "input is a price"),
        (lambda: Prices({}), "at least one model"),
        (lambda: Prices({"a": 2.5}), "is no Price"),
        (lambda: Prices({"a": Price(1)}, per=0), "per is the number"),
    ],
)
def test_what_is_no_table_of_prices_is_refused(make, why):
    """Where it is made, not at the first call."""
    with pytest.raises(ConfigError, match=why):
        make()


def test_prices_may_be_decimals_and_for_any_number_of_tokens():
    """As price lists are kept."""
    prices = Prices({"a": Price(input=Decimal("0.0025"), output=Decimal("0.01"))}, per=1000)
    assert prices.estimate("a", input=1000, output=500) == pytest.approx(0.0075, rel=1e-12)
    assert repr(prices) == "<Prices of a per 1000 tokens>"


def test_money_is_estimated_before_and_settled_after():
    """What was not spent is there for the next call, beside the limits of requests."""
    clock = FakeClock()
    limiter = Limiter("a", requests="10/s burst 10", cost="$0.50/min", clock=clock)
    estimate = PRICES.estimate("gpt-x", input=1_200, output=4_096)
    with limiter.permit(cost=estimate) as permit:
        permit.settle(cost=PRICES.of("gpt-x", {"prompt_tokens": 1_200, "completion_tokens": 10}))
    assert limiter.statistics().available["cost"] == pytest.approx(0.5 - 0.0031)
    assert [bool(limiter.try_permit(cost=0.2)) for _ in range(3)] == [True, True, False]
    refusal = limiter.try_permit(cost=0.2)
    assert refusal.window == "cost 0.5/min"
    assert refusal.retry_after == pytest.approx((0.4031 + 0.2 - 0.5) * 120)
    with pytest.raises(CostTooHighError, match=r"cost=1\.5 exceeds all of 0\.5/min"):
        limiter.permit(cost=1.5)


@given(
    st.lists(st.tuples(st.integers(0, 200_000), st.integers(0, 20_000), st.floats(0, 1)), max_size=200),
    st.sampled_from(["$0.50/day from 00:00 UTC", "$0.50/day burst 0.50"]),
)
@settings(max_examples=100, deadline=None)
def test_fractions_of_a_cent_add_up(calls, text):
    """After any number of calls what is left is what exact arithmetic leaves, to a millionth of a cent."""
    limiter = Limiter("a", cost=text, clock=FakeClock())
    left = Fraction("0.5")
    for prompt, answer, share in calls:
        estimate = PRICES.estimate("gpt-x", input=prompt, output=answer)
        permit = limiter.try_permit(cost=min(0.5, estimate))
        if not permit:
            continue
        real = int(answer * share)
        permit.settle(cost=PRICES.estimate("gpt-x", input=prompt, output=real))
        left -= Fraction(prompt) * Fraction("2.5") / 1_000_000 + Fraction(real) * 10 / 1_000_000
    if left >= 0:
        assert limiter.statistics().available["cost"] == pytest.approx(float(left), abs=1e-8)
