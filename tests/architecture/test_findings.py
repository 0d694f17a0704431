"""Every finding has a page that says what it is, and no page tells of one that is not."""

from __future__ import annotations

import re

import pytest

from greenkit.doctor import explanation, page_of
from tests.architecture.floors import ROOT

USED = sorted(
    {
        found
        for path in (ROOT / "greenkit").rglob("*.py")
        for found in re.findall(r"\"(GK\d{3})\"", path.read_text(encoding="utf-8"))
    }
)
PARTS = ("**Cause.**", "**If ignored.**", "**Fix.**", "```")


def section(finding_id: str) -> str:
    """Return the text under the heading of `finding_id` on its page, "" when there is none."""
    path = ROOT / page_of(finding_id).partition("#")[0]
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    found = re.search(rf"^#+ {finding_id}$(.*?)(?=^#+ |\Z)", text, re.MULTILINE | re.DOTALL)
    return found.group(1) if found else ""


@pytest.mark.parametrize("finding_id", USED)
def test_every_id_has_its_heading(finding_id):
    """An id used in the source has a heading on the page that its findings name."""
    assert section(finding_id).strip()


@pytest.mark.parametrize("finding_id", USED)
def test_every_id_is_explained_on_the_command_line(finding_id):
    """`greenkit explain` prints the whole section and no word of the next one."""
    text = explanation(finding_id)
    assert text.splitlines()[0].endswith(f"# {finding_id}")
    assert "<!--" not in text
    assert re.findall(r"^#+ (GK\d{3})$", text, re.MULTILINE) == [finding_id]
    assert explanation("GK199") == ""


@pytest.mark.parametrize("page", ["findings-boot", "findings-watchdog"])
def test_each_page_says_the_same_four_things(page):
    """Cause, what happens if ignored, fix, and an example."""
    text = (ROOT / "docs" / "reference" / f"{page}.md").read_text(encoding="utf-8")
    ids = re.findall(r"^## (GK\d{3})$", text, re.MULTILINE)
    assert ids == sorted(set(ids))
    assert [(one, part) for one in ids for part in PARTS if part not in section(one)] == []


def test_an_id_without_a_heading_is_seen():
    """The test above can fail."""
    assert len(USED) > 15
    assert section("GK199") == ""
