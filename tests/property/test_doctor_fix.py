from __future__ import annotations

import ast

from hypothesis import given
from hypothesis import strategies as st

from greenkit.doctor import fix_text

LINE = "import greenkit.auto  # noqa: F401"

HEADS = st.sampled_from(["#!/usr/bin/env python3", "# -*- coding: utf-8 -*-", "# a licence", "# grüße", ""])
DOCS = st.sampled_from(
    ['"""Docs."""', "'''Über\nzwei Zeilen.'''", '"a" "b"', '"""D."""  # why', '"""D.""";', ""]
)
FUTURES = st.sampled_from(
    ["from __future__ import annotations", "from __future__ import (\n    annotations,\n)"]
)
STATEMENTS = st.sampled_from([
    "import os", "from time import sleep  # früh", "x = 'ä'; import ssl", "if True:\n    import socket",
    "from gevent import monkey", "monkey.patch_all()", "monkey.patch_all()  # first!",
    "from gevent import monkey; monkey.patch_all()", "import gevent.monkey; gevent.monkey.patch_all(); y = 1",
    "from gevent.monkey import patch_all as p", "p()", "monkey.patch_all(thread=False)",
    "import greenkit.auto", "if x:\n    monkey.patch_all()", "def f():\n    return monkey\n", "# a comment",
    "text = '''\nfrom gevent import monkey\n'''", "__all__ = ['monkey']", "\f", "",
])  # fmt: skip


@st.composite
def files(draw):
    """Files as people write them: heads, docstrings, futures, and imports in any order."""
    parts = draw(st.lists(HEADS, max_size=2)) + [draw(DOCS)] * draw(st.booleans())
    parts += draw(st.lists(FUTURES, max_size=2)) + draw(st.lists(STATEMENTS, max_size=8))
    newline = draw(st.sampled_from(["\n", "\n", "\r\n"]))
    end = draw(st.sampled_from(["\n", ""]))
    return newline.join("\n".join(parts).split("\n")) + end


def meaning(text: str) -> list[str]:
    """The statements of `text`, without those the fix may move or take away."""
    kept = []
    for node in ast.parse(text).body:
        said = ast.unparse(node)
        if isinstance(node, ast.Pass) or said in {"import greenkit.auto", "monkey.patch_all()", "p()"}:
            continue
        if said.startswith(
            ("from gevent import monkey", "import gevent.monkey", "from gevent.monkey", "gevent.")
        ):
            continue
        kept.append(said)
    return kept


@given(files())
def test_the_fixed_file_parses_and_keeps_everything_else(text):
    """The import is first; every other statement, comment and line is where it was."""
    fixed = fix_text(text).text
    statements = ast.parse(fixed).body
    at = int(ast.get_docstring(ast.parse(fixed)) is not None)
    while isinstance(statements[at], ast.ImportFrom) and statements[at].module == "__future__":
        at += 1
    assert ast.unparse(statements[at]) == "import greenkit.auto"
    assert meaning(fixed) == meaning(text)
    assert ast.get_docstring(ast.parse(fixed)) == ast.get_docstring(ast.parse(text))
    assert fixed.count("#") - fixed.count(LINE) == text.count("#") - text.count(LINE)


@given(files())
def test_fixing_twice_is_fixing_once(text):
    """A mended file has nothing left to mend."""
    once = fix_text(text)
    again = fix_text(once.text)
    assert again.text == once.text
    assert len(again.left) == len(once.left)


@given(files())
def test_no_other_line_is_touched(text):
    """Lines that have nothing to do with the patch stay letter for letter, in their order."""
    moved = ("gevent", "greenkit", "patch_all", "p()", "# first!", "D.", "pass", "y = 1")

    def others(whole):
        # A last line without an end gets the file's when ours comes behind it.
        lines = whole.replace("\r\n", "\n").split("\n")
        return [line for line in lines if line.strip() and not any(part in line for part in moved)]

    assert others(fix_text(text).text) == others(text)


@given(files())
def test_a_name_that_is_used_keeps_its_import(text):
    """What the file still calls `monkey` is still imported, where it was."""
    fixed = fix_text(text).text
    names = {node.id for node in ast.walk(ast.parse(fixed)) if isinstance(node, ast.Name)}
    if "monkey" in names and "from gevent import monkey" in text.replace(
        "text = '''\nfrom gevent import monkey\n", ""
    ):
        assert "from gevent import monkey" in fixed
