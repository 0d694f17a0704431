"""The table of metrics: names by Prometheus' conventions, sums, and bounded cardinality."""

from __future__ import annotations

import re

import pytest

from greenkit.metrics._families import ROWS, families
from greenkit.metrics._observed import Histogram


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.section}.{row.field}")
def test_names_follow_prometheus_conventions(row) -> None:
    """Lower case, a base unit at the end, `_total` of counters alone, a meaning for the reader."""
    name = row.prometheus
    assert re.fullmatch(r"greenkit_[a-z][a-z_]*[a-z]", name)
    assert name.endswith("_total") is row.counts
    assert row.unit in {"", "seconds", "ratio"}
    assert row.about[0].isupper() or row.about[0].isdigit() or row.about.startswith("asyncio")
    assert row.about.endswith(".")


def test_rows_of_one_name_agree() -> None:
    """States of one metric share its meaning and unit, and differ by their label."""
    by_name: dict[str, list] = {}
    for row in ROWS:
        by_name.setdefault(row.prometheus, []).append(row)
    for rows in by_name.values():
        assert len({(row.about, row.unit, row.counts, row.label) for row in rows}) == 1
        assert len({row.more for row in rows}) == len(rows)


def test_things_of_one_name_are_summed_up() -> None:
    """An address never becomes a label."""
    [family] = families({"pool": {"crew": {"size": 3}, "crew#7f00": {"size": 4}}})
    assert family.samples == {(("pool", "crew"),): 7.0}


def test_dictionaries_give_a_sample_for_each_key() -> None:
    """Tokens and requests that are left are told apart by dimension."""
    [family] = families({"limiter": {"llm": {"available": {"requests": 2.0, "tokens": -5.0}}}})
    assert family.samples == {
        (("limiter", "llm"), ("dimension", "requests")): 2.0,
        (("limiter", "llm"), ("dimension", "tokens")): -5.0,
    }


def test_too_many_names_become_other() -> None:
    """A limiter made for each user costs one more series, not one for each of them."""
    [family] = families({"limiter": {f"user {n}": {"waiting": 1} for n in range(500)}})
    assert len(family.samples) == 101
    assert family.samples[(("limiter", "other"),)] == 400


def test_a_histogram_is_cumulative() -> None:
    """Each bucket counts what is no larger than its bound; the last counts all."""
    histogram = Histogram()
    for seconds in (0.0, 0.001, 0.002, 3.0, 1000.0):
        histogram.observe(seconds)
    told = dict(histogram.cumulative())
    assert (told["0.001"], told["0.0025"], told["2.5"], told["5.0"], told["+Inf"]) == (2, 3, 3, 4, 5)
    assert histogram.total == pytest.approx(1003.003)
