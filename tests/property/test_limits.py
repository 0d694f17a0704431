"""The arithmetic of limits against a brute-force count of every window."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from greenkit.limits import Rate
from greenkit.limits._gcra import JITTER_CREDIT, Rule, Rules

rates = st.builds(
    Rate,
    st.one_of(st.integers(2, 500), st.floats(1.5, 500), st.sampled_from([10_000, 1_000_000])),
    st.sampled_from([1.0, 60.0, 86_400.0]),
    st.one_of(st.just(math.nan), st.sampled_from([1.0, 0.25])),  # NaN: the default
)
gaps = st.one_of(st.just(0.0), st.floats(0, 0.02), st.floats(0, 3), st.floats(0, 1e5))
costs = st.one_of(st.just(1.0), st.floats(0.01, 1.0))
credits_ = st.sampled_from([0.0, JITTER_CREDIT])


def play(rule, steps, *, wait=True):
    """Return [(instant, cost)] of what is granted when `steps` of (gap, share, credit) ask in turn."""
    rules = Rules([rule])
    tats, now, granted = rules.start(), 1e5, []
    for gap, share, credit in steps:
        now += gap
        cost = max(share * rule.burst, 1e-6)
        after = rules.decide(tats, (cost,), now, credit=credit)
        if after is None and wait:
            now = max(now, rules.earliest(tats, (cost,)))
            after = rules.decide(tats, (cost,), now, credit=credit)
            assert after is not None, "refused at the very instant it was told to come back"
        if after is not None:
            tats = after
            granted.append((now, cost))
    return granted


def worst_excess(granted, bound):
    """Return by how much the fullest of all windows exceeds `bound(length)`."""
    worst = -math.inf
    for first in range(len(granted)):
        total = 0.0
        for instant, cost in granted[first:]:
            total += cost
            worst = max(worst, total - bound(instant - granted[first][0]))
    return worst


@given(rates, st.lists(st.tuples(gaps, costs, credits_), max_size=60), st.booleans())
@settings(max_examples=300, deadline=None)
def test_no_window_sees_more_than_burst_and_rate(rate, steps, wait):
    """Whatever is asked when, a window of W seconds holds at most burst + (W + credit) · rate."""
    rule = Rule("requests", rate)
    granted = play(rule, steps, wait=wait)

    def bound(window):
        return rule.burst + (window + JITTER_CREDIT) / rule.interval

    assert worst_excess(granted, bound) <= 1e-6 * rule.burst + 2e-9 / rule.interval


@given(rates, st.lists(st.tuples(gaps, st.floats(0.01, 1.0), credits_), max_size=60), st.booleans())
@settings(max_examples=300, deadline=None)
def test_single_costs_above_the_burst_keep_the_rate(rate, steps, wait):
    """A window holds the rate and, instead of the burst, the largest cost there was."""
    rule = Rule("tokens", rate)
    share = rule.largest / rule.burst
    granted = play(rule, [(gap, cost * share, credit) for gap, cost, credit in steps], wait=wait)
    most = max([rule.burst, *(cost for _, cost in granted)])

    def bound(window):
        return most + (window + JITTER_CREDIT) / rule.interval

    assert worst_excess(granted, bound) <= 1e-6 * most + 2e-9 / rule.interval


@given(rates, st.lists(st.tuples(st.floats(0, 0.02), costs, credits_), max_size=120), st.integers(0, 40))
@settings(max_examples=300, deadline=None)
def test_strict_never_exceeds_the_amount_in_any_window(rate, steps, idle):
    """Strict holds N for every window of the period, also one that begins with a full budget."""
    rule = Rule("requests", rate, strict=True)
    granted = play(rule, [*steps[:idle], (rate.period * 3, 1.0, 0.0), *steps[idle:]])
    for first in range(len(granted)):
        start = granted[first][0]
        in_window = sum(cost for instant, cost in granted[first:] if instant - start <= rate.period)
        assert in_window <= rate.amount * (1 + 1e-6)


@given(rates, st.lists(st.tuples(costs, credits_), min_size=1, max_size=60))
@settings(max_examples=200, deadline=None)
def test_no_budget_is_wasted_while_somebody_waits(rate, asked):
    """Asked without pause, the n-th grant comes no later than its cost divided by the rate."""
    rule = Rule("requests", rate)
    granted = play(rule, [(0.0, share, credit) for share, credit in asked])
    start, total = granted[0][0], 0.0
    for instant, cost in granted:
        total += cost
        assert instant - start <= max(0.0, total - rule.burst) * rule.interval * (1 + 1e-9) + 1e-6


@given(rates, st.floats(0.001, 0.009), st.integers(2, 50))
def test_late_timers_cost_no_rate(rate, late, many):
    """A head that wakes late by less than the credit does not push back those behind it."""
    rule = Rule("requests", Rate(rate.amount, rate.period, 1))
    rules, tats, now = Rules([rule]), None, 1e5
    start = now
    tats = rules.decide(rules.start(), (1.0,), now, credit=0.0)
    for _ in range(many):
        now = max(now, rules.earliest(tats, (1.0,)) + late)
        tats = rules.decide(tats, (1.0,), now, credit=JITTER_CREDIT)
        assert tats is not None
    assert now - start <= many * rule.interval + late + 1e-6


@given(
    st.lists(st.tuples(rates, costs), min_size=1, max_size=4),
    st.lists(gaps, min_size=1, max_size=30),
    st.data(),
)
@settings(max_examples=150, deadline=None)
def test_dimensions_are_taken_together_or_not_at_all(given_rates, waits, data):
    """The unrolled arithmetic of one, two and more dimensions agrees with each rule on its own."""
    names = [f"d{n}" for n in range(len(given_rates))]
    alone = [Rule(name, rate) for name, (rate, _) in zip(names, given_rates, strict=True)]
    together = Rules(alone)
    tats, now = together.start(), 1e5
    for gap in waits:
        now += gap
        cost = tuple(
            data.draw(st.sampled_from([0.0, share * rule.burst, rule.burst]))
            for rule, (_, share) in zip(alone, given_rates, strict=True)
        )
        singly = [
            Rules([rule]).earliest((tat,), (one,)) <= now + 1e-9 or not one
            for rule, tat, one in zip(alone, tats, cost, strict=True)
        ]
        after = together.decide(tats, cost, now, credit=0.0)
        near = any(
            abs(Rules([rule]).earliest((tat,), (one,)) - now) < 1e-8
            for rule, tat, one in zip(alone, tats, cost, strict=True)
            if one and tat > -math.inf
        )
        if not near:
            assert (after is not None) == all(singly)
        if after is not None:
            assert all(new >= old or one == 0 for new, old, one in zip(after, tats, cost, strict=True))
            tats = after


@given(rates, st.lists(st.tuples(gaps, costs, st.floats(0, 2)), min_size=1, max_size=40))
@settings(max_examples=200, deadline=None)
def test_settling_at_once_is_the_same_as_having_asked_for_it(rate, steps):
    """Reserve then settle leaves what the real cost would have; no refund lifts it above the burst."""
    rule = Rule("tokens", rate)
    rules = Rules([rule])
    settled = direct = rules.start()
    now = 1e5
    for gap, share, factor in steps:
        now += gap
        reserved, real = share * rule.burst, share * rule.burst * factor
        after = rules.decide(settled, (reserved,), now, credit=0.0)
        if after is None:
            continue
        settled, cost = rules.settle(after, (reserved,), {"tokens": real}, now)
        assert cost == (real,)
        direct = (max(direct[0], now) + real * rule.interval,)
        assert math.isclose(settled[0], direct[0], rel_tol=1e-9, abs_tol=1e-6)
        assert rule.available(settled[0], now) <= rule.burst


def test_the_window_count_sees_a_rule_that_is_not_strict():
    """A twin without `strict` lets a full budget and the rate through in one window."""
    granted = play(Rule("requests", Rate(10, 1.0, 5)), [(0.0, 0.2, 0.0)] * 40)
    start = granted[0][0]
    assert sum(cost for instant, cost in granted if instant - start <= 1.0) > 10
