"""Imports only go down, and stay in front of doors."""

from __future__ import annotations

import pytest

from tests.architecture import rules
from tests.architecture.floors import BARE_NAMES, FLOORS, LONG_FUNCTIONS, ROOT


def test_imports_only_go_down():
    """No room imports a room of its own floor or of one above, not even late or for typing."""
    assert rules.upward_imports(ROOT) == []


def test_every_room_is_on_one_floor():
    """The table names each room once, and names no room that does not exist."""
    named = [room for _, rooms in FLOORS for room in rooms]
    there = {path.stem for path in (ROOT / "greenkit").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert len(named) == len(set(named))
    assert there - {"__init__", "__pycache__", "py"} <= set(named)


def test_every_exception_is_about_something_there():
    """No entry of floors.py names a room, a file or a function that does not exist."""
    assert rules.missing_entries(ROOT) == []


def test_an_entry_about_nothing_is_seen(plant):
    """In an empty tree each room, file and function of floors.py is missing."""
    missing = rules.missing_entries(plant("greenkit/x.py", ""))
    assert {"greenkit/celery", "greenkit/errors", *BARE_NAMES, *LONG_FUNCTIONS} <= set(missing)


@pytest.mark.parametrize(
    ("path", "text", "complaint"),
    [
        ("greenkit/wait/_line.py", "from greenkit.limits import Limiter", "imports up: greenkit.limits"),
        ("greenkit/pool/_pool.py", "import greenkit.limits", "imports sideways: greenkit.limits"),
        ("greenkit/pool/_pool.py", "from .. import limits", "imports limits through the street door"),
        (
            "greenkit/pool/_pool.py",
            "def f():\n    from ..limits import Limiter",
            "imports sideways: greenkit.limits",
        ),
        ("greenkit/pool/_pool.py", "import_module('greenkit.celery')", "imports up: greenkit.celery"),
        ("greenkit/pool/_pool.py", "from greenkit import Limiter", "imports Limiter through the street door"),
        ("greenkit/attic/_old.py", "import os", "room 'attic' is on no floor"),
    ],
)
def test_a_wrong_import_is_seen(plant, path, text, complaint):
    """Each way of spelling an import that goes up or sideways is caught."""
    found = rules.upward_imports(plant(path, text))
    assert any(complaint in one for one in found), found


def test_a_module_of_a_room_is_resolved_before_it_is_judged(plant):
    """`from greenkit import wait` is an import of the room, when the room is there."""
    plant("greenkit/wait/__init__.py", "")
    assert rules.upward_imports(plant("greenkit/pool/_pool.py", "from greenkit import wait")) == []
    assert rules.upward_imports(plant("greenkit/boot/_x.py", "from greenkit import wait")) != []


def test_nobody_reaches_behind_a_door():
    """A room uses another only by the names its door gives."""
    assert rules.reached_behind_doors(ROOT) == []


@pytest.mark.parametrize(
    "text", ["from greenkit.wait._line import WaitLine", "from greenkit.wait import _line"]
)
def test_reaching_behind_a_door_is_seen(plant, text):
    """A private file or a private name of another room is caught."""
    assert rules.reached_behind_doors(plant("greenkit/pool/_pool.py", text)) != []
    assert rules.reached_behind_doors(plant("greenkit/pool/_pool.py", "from greenkit.pool._x import y")) == []


def test_optional_packages_stay_where_they_are_adapted():
    """A package that may be absent is imported only in the room that adapts it."""
    assert rules.scattered_optionals(ROOT) == []


def test_a_scattered_optional_package_is_seen(plant):
    """Rich in the pool's room, and late at that, is caught."""
    found = rules.scattered_optionals(
        plant("greenkit/pool/_p.py", "def f():\n    from rich.live import Live")
    )
    assert found == ["greenkit/pool/_p.py:2 imports rich.live, adapted in greenkit/cli/"]
