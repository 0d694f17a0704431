"""Read the fenced blocks of a page, with what a comment above a block says about running it.

A block that no test runs has a comment on the line above it: `<!-- not run: reason -->`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(
    r"^(?: *<!-- (?P<mark>.*?) -->\n)?(?P<indent> *)```(?P<language>[^\s`]*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_PLACE = re.compile(r"# (?P<path>[\w./]+\.(?:py|toml|ini))(?P<end>, at the end)?(?:,.*)?\n")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, text and first line, and the comment above it."""

    page: str
    line: int
    language: str
    text: str
    mark: str

    @property
    def not_run(self) -> str:
        """Return the reason why no test runs it, or nothing."""
        return self.mark.partition("not run: ")[2]

    @property
    def path(self) -> str:
        """Return the file its first line names, or nothing."""
        found = _PLACE.match(self.text)
        return found["path"] if found else ""

    def write(self, root: Path) -> None:
        """Write it to the file it names, or append it where it says "at the end"."""
        found = _PLACE.match(self.text)
        assert found is not None, f"{self.page}:{self.line} names no file"
        file = root / found["path"]
        file.parent.mkdir(parents=True, exist_ok=True)
        before = file.read_text(encoding="utf-8") + "\n" if found["end"] else ""
        file.write_text(before + self.text[found.end() :], encoding="utf-8")

    def commands(self) -> list[tuple[str, str]]:
        """Return (command, output shown) of a console block."""
        parts = re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]
        return [(first, rest) for first, _, rest in (part.partition("\n") for part in parts)]


def pages() -> list[str]:
    """Return the pages that a reader gets, as paths from the root; fragments of the changelog are none."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    skipped = ("_build", "changes", "generated")
    return [str(p.relative_to(ROOT)) for p in found if not set(skipped) & set(p.relative_to(ROOT).parts)]


def blocks(page: str) -> list[Block]:
    """Return the fenced blocks of a page in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, m.start("language")) + 1,
            m["language"],
            dedent(m["text"]),
            m["mark"] or "",
        )
        for m in _FENCE.finditer(text)
    ]
