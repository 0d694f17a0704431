"""Files and functions stay small enough to be read at three in the morning."""

from __future__ import annotations

import pytest

from tests.architecture import rules
from tests.architecture.floors import FOREIGN_SIGNATURES, LONG_FUNCTIONS, ROOT


@pytest.mark.parametrize("folder", ["greenkit", "tests", "examples", "benchmarks"])
def test_no_file_passes_the_wall(folder):
    """A file holds one idea, and an idea fits in 600 lines."""
    assert rules.long_files(ROOT, folder) == []


def test_a_long_file_is_seen(plant):
    """Line 601 is one too many."""
    assert rules.long_files(plant("greenkit/pool/_p.py", "x = 1\n" * 600)) == []
    assert rules.long_files(plant("greenkit/pool/_p.py", "x = 1\n" * 601)) != []


def test_no_function_passes_the_wall():
    """A function is at most 45 lines without its docstring, and four levels deep."""
    assert rules.long_functions(ROOT) == []


def test_a_long_function_is_seen(plant):
    """Line 46 of a body is one too many; a docstring's lines are free."""
    head = "class A:\n  def f(self):\n    '''" + "words\n" * 50 + "'''\n"
    assert rules.long_functions(plant("greenkit/pool/_p.py", head + "    x = 1\n" * 45)) == []
    assert rules.long_functions(plant("greenkit/pool/_p.py", head + "    x = 1\n" * 46)) == [
        "greenkit/pool/_p.py:2 A.f() has 46 lines, the wall is 45"
    ]


def test_a_deep_function_is_seen(plant):
    """A fifth level of indent is one too many; an `elif` is no level."""
    lines = ["def f():"] + [" " * n + "if x:" for n in range(1, 6)] + [" " * 6 + "pass"]
    assert "5 levels deep" in rules.long_functions(plant("greenkit/pool/_p.py", "\n".join(lines)))[0]
    flat = "def f():\n if x: pass\n" + " elif x: pass\n" * 9
    assert rules.long_functions(plant("greenkit/pool/_p.py", flat)) == []


def test_public_functions_take_few_positional_arguments():
    """At most two positional arguments; the rest are named at the call."""
    assert rules.many_positionals(ROOT) == []


def test_many_positional_arguments_are_seen(plant):
    """A third positional argument is caught; `self`, keyword-only and private ones are free."""
    plant("greenkit/pool/__init__.py", "__all__ = ['f', 'A']")
    bad = "def f(a, b, c): ...\nclass A:\n  def g(self, a, b, c): ..."
    good = "class A:\n  def f(self, a, b, *, c): ...\nclass B:\n  def g(self, a, b, c): ..."
    assert len(rules.many_positionals(plant("greenkit/pool/_p.py", bad))) == 2
    assert rules.many_positionals(plant("greenkit/pool/_p.py", good)) == []


@pytest.mark.parametrize("table", [LONG_FUNCTIONS, FOREIGN_SIGNATURES])
def test_every_exception_still_exists(table):
    """An exception whose function is gone leaves the table too."""
    there = {f"{m.path}:{name}" for m in rules.modules(ROOT) for name, _ in rules.functions(m)}
    there |= {f"{m.path}:{name}" for m in rules.modules(ROOT) for name, _ in rules.public_definitions(m)}
    assert set(table) <= there
    assert all(table.values())
