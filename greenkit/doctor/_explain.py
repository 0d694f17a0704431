"""What the pages say of a finding, for somebody who has installed greenkit and no checkout.

The pages travel in the wheel; an editable installation reads those of its checkout.
"""

from __future__ import annotations

import re
from pathlib import Path

from greenkit.doctor._pages import page_of

__all__ = ["explanation"]

_PACKAGE = Path(__file__).parents[1]


def explanation(finding_id: str) -> str:
    """Return the section about a finding, in Markdown, "" when no page has one.

    Switches: never.
    """
    page = page_of(finding_id).partition("#")[0].rpartition("/")[2]
    for folder in (_PACKAGE / "_pages", _PACKAGE.parent / "docs" / "reference"):
        file = folder / page
        if file.is_file():
            text = file.read_text(encoding="utf-8")
            found = re.search(
                rf"^(#+ {finding_id}$.*?)(?=^#+ |^\(gk\d+\)=|\Z)", text, re.MULTILINE | re.DOTALL
            )
            # What a test reads, or a link needs, is nobody's to read.
            return re.sub(r"^<!--.*-->\n", "", found[1], flags=re.MULTILINE).strip() if found else ""
    return ""
