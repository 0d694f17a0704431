"""A way to plant one bad file in an empty tree, for proving that a rule sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def plant(tmp_path: Path) -> Callable[[str, str], Path]:
    """Give a function that writes `text` to `path` in a tree of its own and returns the tree."""

    def write(path: str, text: str) -> Path:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return tmp_path

    return write
