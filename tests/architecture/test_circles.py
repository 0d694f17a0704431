"""No module imports itself by way of others, not even late or for typing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.architecture.floors import ROOT
from tests.architecture.source import Module, imports, modules

if TYPE_CHECKING:
    from collections.abc import Container
    from pathlib import Path

# To be emptied: packages whose circles are known, and how many.
KNOWN = {"testing": 1}


def circles(root: Path) -> list[list[str]]:
    """Return the groups of modules that import each other."""
    found = {module.name: module for module in modules(root)}
    arrows = {name: _imported(module, found) for name, module in found.items()}
    reached = {name: _reached(name, arrows) for name in arrows}
    groups = {
        frozenset(other for other in reached[name] if name in reached[other])
        for name in arrows
        if name in reached[name]
    }
    return sorted(sorted(group) for group in groups)


def _imported(module: Module, known: Container[str]) -> set[str]:
    both = ((f"{found.name}.{found.symbol}", found.name) for found in imports(module))
    # A submodule, if there is one of that name; else what the name is taken from.
    return {next((name for name in names if name in known), module.name) for names in both} - {module.name}


def _reached(start: str, arrows: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    ahead = list(arrows[start])
    while ahead:
        name = ahead.pop()
        if name not in seen:
            seen.add(name)
            ahead += arrows[name]
    return seen


def test_no_package_has_more_circles_than_are_known() -> None:
    """Each but those that are known has none."""
    count: dict[str, int] = {}
    for group in circles(ROOT):
        package = group[0].split(".")[1]
        count[package] = count.get(package, 0) + 1
    assert {name: many for name, many in count.items() if many > KNOWN.get(name, 0)} == {}


def test_a_circle_is_seen(plant) -> None:
    """Also one through a function and an import for typing."""
    plant("greenkit/pool/_a.py", "if TYPE_CHECKING:\n from greenkit.pool._b import B")
    root = plant("greenkit/pool/_b.py", "def f():\n from greenkit.pool import _a")
    assert circles(root) == [["greenkit.pool._a", "greenkit.pool._b"]]
    assert circles(plant("greenkit/pool/_b.py", "x = 1")) == []
