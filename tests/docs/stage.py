"""Run the Python blocks of one page in one process, with the names the page takes for granted.

`python -m tests.docs.stage PAGE`, started by test_blocks.py in an empty directory.
"""

from __future__ import annotations

import ast
import asyncio
import linecache
import sys
from typing import TYPE_CHECKING, Any

from tests.docs.pages import Block, blocks

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Stage", "main"]


class Stage:
    """The Python blocks of a page that run, one after the other, in one namespace."""

    def __init__(self, page: str) -> None:
        self.page = page
        self.left = [block for block in blocks(page) if block.language == "python" and not block.not_run]
        self.names: dict[str, Any] = {"__name__": "page"}

    def take(self) -> Block:
        """Return the next block, which then counts as run."""
        return self.left.pop(0)

    def run(self, **names: Any) -> dict[str, Any]:
        """Run the next block with `names` added; return the namespace. It may await outside functions."""
        block = self.take()
        self.names.update(names)
        place = f"{block.page}:{block.line}"
        # So that tracebacks show the page's own lines.
        linecache.cache[place] = (len(block.text), None, block.text.splitlines(keepends=True), place)
        code = compile(block.text, place, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        coroutine = eval(code, self.names)
        if coroutine is not None:
            asyncio.run(coroutine)
        return self.names


def main(page: str) -> None:
    """Run the page in its world, every block of it."""
    from tests.docs.worlds import WORLDS

    stage = Stage(page)
    world: Callable[[Stage], None] | None = WORLDS.get(page)
    if world is not None:
        world(stage)
    # A block that came later than the world runs with the names that are there.
    while stage.left:
        stage.run()


if __name__ == "__main__":
    main(sys.argv[1])
