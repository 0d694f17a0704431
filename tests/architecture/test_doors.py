"""Doors hold imports and `__all__`; files behind them start with an underscore."""

from __future__ import annotations

import importlib

import pytest

from tests.architecture import rules
from tests.architecture.floors import BARE_NAMES, DOORS_WITH_LOGIC, ROOT

# Importing this one patches the process: that is what it is for.
NOT_A_DOOR = {"auto", "__main__"}
ROOMS = sorted(
    path.parent.name
    for path in (ROOT / "greenkit").glob("*/__init__.py")
    if path.parent.name not in NOT_A_DOOR
)


def test_doors_hold_no_logic():
    """Every `__init__.py` is a docstring, imports and `__all__`, except where a reason is written."""
    assert rules.doors_with_logic(ROOT) == []


@pytest.mark.parametrize(
    "text", ["x = 1", "def f(): ...", "if True:\n    import os", "for x in []: pass", "f()"]
)
def test_logic_in_a_door_is_seen(plant, text):
    """A statement, a function, a condition, a loop or a call in a door is caught."""
    assert rules.doors_with_logic(plant("greenkit/pool/__init__.py", text)) != []


def test_all_names_exactly_what_the_door_imports():
    """A door's `__all__` and its imports are the same names."""
    assert rules.incomplete_all(ROOT) == []


@pytest.mark.parametrize(
    "text",
    [
        "from ._a import A",
        "__all__ = ['A']",
        "from ._a import A, B\n__all__ = ['A']",
        "from ._a import A as C\n__all__ = ['A']",
        "from ._a import A as A\n__all__ = ['A']",
    ],
)
def test_an_incomplete_all_is_seen(plant, text):
    """A name that is missing, and one that is nowhere, are caught."""
    assert rules.incomplete_all(plant("greenkit/pool/__init__.py", text)) != []


@pytest.mark.parametrize("room", ROOMS)
def test_every_name_of_a_door_can_be_had(room):
    """Each name in `__all__` is really there; a room loaded by path has none."""
    door = importlib.import_module(f"greenkit.{room}")
    assert [name for name in getattr(door, "__all__", ()) if not hasattr(door, name)] == []


def test_the_street_door_gives_every_name_it_promises():
    """`greenkit.<name>` works for each name in `greenkit.__all__`, and for no other."""
    door = importlib.import_module("greenkit")
    assert [name for name in door.__all__ if not hasattr(door, name)] == []
    assert not hasattr(door, "no_such_name")


def test_files_behind_a_door_start_with_an_underscore():
    """Only what a framework loads by path has a bare name, and each such file is listed."""
    assert rules.bare_names(ROOT) == []


@pytest.mark.parametrize("path", ["greenkit/pool/pool.py", "greenkit/pool/deep/__init__.py"])
def test_a_bare_name_is_seen(plant, path):
    """A file without an underscore, or a folder within a room, is caught."""
    plant("greenkit/pool/__init__.py", "")
    assert rules.bare_names(plant("greenkit/pool/_pool.py", "")) == []
    assert rules.bare_names(plant(path, "")) == [f"{path}:1 a file behind a door starts with _"]


def test_every_exception_has_a_reason():
    """An exception in the tables says why it is one."""
    assert all({**BARE_NAMES, **DOORS_WITH_LOGIC}.values())
