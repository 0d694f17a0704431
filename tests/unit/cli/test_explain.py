"""`greenkit explain` prints pages, and says so when there is none."""

from __future__ import annotations

from greenkit.cli import main


def test_findings_are_explained_in_order(capsys):
    """One section after the other; small letters will do."""
    assert main(["explain", "GK108", "gk101"]) == 0
    printed = capsys.readouterr().out
    assert printed.index("## GK108") < printed.index("## GK101")
    assert "**Fix.**" in printed


def test_an_unknown_id_is_named(capsys):
    """Status 2, one line, and nothing printed."""
    assert main(["explain", "GK101", "GK000"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "no finding is called GK000" in told.err
