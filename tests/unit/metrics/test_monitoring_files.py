"""The dashboard and the alert rules speak of metrics there are, with the labels they have."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from greenkit.metrics._families import ROWS

PLACE = Path(__file__).resolve().parents[3] / "docs" / "monitoring"
HISTOGRAMS = {"greenkit_hub_lag_seconds": set(), "greenkit_limiter_wait_seconds": {"limiter"}}
# Prometheus' own, and what each answer of the port carries.
COMMON = {"job", "instance", "process"}


def known() -> dict[str, set[str]]:
    """Return {name of a series: its labels}."""
    found: dict[str, set[str]] = {}
    for row in ROWS:
        labels = {row.label, row.key_label, *dict(row.more)} - {""}
        found.setdefault(row.prometheus, set()).update(labels)
    for name, labels in HISTOGRAMS.items():
        found[f"{name}_bucket"] = {*labels, "le"}
        found[f"{name}_count"] = found[f"{name}_sum"] = labels
    return found


def expressions() -> list[str]:
    board = json.loads((PLACE / "dashboard.json").read_text())
    rules = yaml.safe_load((PLACE / "alerts.yml").read_text())
    shown = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return shown + [rule["expr"] for group in rules["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("expression", expressions())
def test_an_expression_names_what_there_is(expression: str) -> None:
    """Each series exists, and is summed by labels it has; counters are read as rates."""
    names = re.findall(r"greenkit_[a-z_]+", expression)
    assert names
    by = {label.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(",")}
    for name in names:
        assert name in known(), f"{name} is no metric of greenkit"
        assert by <= known()[name] | COMMON, f"{name} has no label {by - known()[name] - COMMON}"
        if name.endswith("_total"):
            assert re.search(rf"(rate|increase)\({name}", expression), f"{name} is a counter"
    assert expression.count("(") == expression.count(")")


def test_a_legend_shows_labels_its_sum_keeps() -> None:
    """`{{limiter}}` in a legend is empty when the sum dropped it."""
    for panel in json.loads((PLACE / "dashboard.json").read_text())["panels"]:
        for target in panel["targets"]:
            kept = re.search(r"by \(([^)]*)\)", target["expr"])
            labels = {label.strip() for label in kept[1].split(",")} if kept else COMMON
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= labels, target


def test_the_page_lists_every_metric() -> None:
    """The reference names each, in full or by its ending."""
    page = (PLACE.parent / "reference" / "metrics.md").read_text()
    listed = set(re.findall(r"`(_[a-z_]+|greenkit_[a-z_]+)`", page))
    for name in [*{row.prometheus for row in ROWS}, *HISTOGRAMS]:
        assert name in listed or any(name.endswith(short) for short in listed if short[0] == "_"), name
