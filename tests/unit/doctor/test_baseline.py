from __future__ import annotations

import json

import pytest

from greenkit.doctor import Diagnosis, accept, write_baseline
from greenkit.errors import ConfigError
from greenkit.findings import Finding, Severity


def stale(name: str, line: int = 1) -> Finding:
    return Finding(
        "GK101", Severity.ERROR, f"{name}, seen at {line}", rule="stale-reference", holder="shop.jobs",
        attribute=name, original="time.sleep", captured_at=f"jobs.py:{line}",
    )  # fmt: skip


def test_what_was_accepted_is_left_out(tmp_path):
    """A finding is known by what it is about: it may move to another line and stays accepted."""
    file = str(tmp_path / "greenkit.json")
    assert write_baseline(Diagnosis(findings=(stale("nap"), stale("nap", 7), stale("old"))), file) == 2
    left = accept(Diagnosis(findings=(stale("nap", 99), stale("new"))), file)
    assert left.findings == (stale("new"),)
    assert left.accepted == 1
    assert left.gone == ("GK101 stale-reference shop.jobs old time.sleep",)
    assert left.exit_code == 1


def test_findings_about_nothing_are_told_apart_by_their_words(tmp_path):
    """Accepting one warning of gevent's does not accept the next."""
    one, two = (Finding("GK108", Severity.WARNING, f"gevent says: {what}") for what in ("a", "b"))
    file = str(tmp_path / "greenkit.json")
    write_baseline(Diagnosis(findings=(one,)), file)
    assert accept(Diagnosis(findings=(one, two)), file).findings == (two,)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "there is no baseline"),
        ("{", "is no baseline of greenkit"),
        ("[]", "is no baseline of greenkit"),
        (json.dumps({"version": 2, "accepted": []}), "of version 2"),
        (json.dumps({"version": 1, "accepted": [{"id": "GK101"}]}), "is no baseline of greenkit"),
    ],
)
def test_a_bad_baseline_is_named(tmp_path, text, says):
    """The message says which file and what is wrong with it."""
    file = tmp_path / "greenkit.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=says):
        accept(Diagnosis(), str(file))
