"""What may stand before the patch loads nothing the patch would be too late for."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.architecture.floors import GROUND, NEEDS_ONLY_GEVENT, NOT_BEFORE, OPTIONAL

WHAT_IT_LOADS = """
import sys
before = set(sys.modules)
{statement}
import json
print(json.dumps(sorted(set(sys.modules) - before)))
"""

WITHOUT_OPTIONALS = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {optional!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}} (kept away by this test)", name=name)
sys.meta_path.insert(0, Absent())
import importlib
importlib.import_module({room!r})
"""


def run_clean(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, timeout=60, check=False
    )


def loaded_too_early(statement: str) -> set[str]:
    """Return the names of NOT_BEFORE that `statement` loads in a clean interpreter."""
    done = run_clean(WHAT_IT_LOADS.format(statement=statement))
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout.splitlines()[-1])
    return {name for name in NOT_BEFORE if any(one == name or one.startswith(name + ".") for one in loaded)}


@pytest.mark.parametrize("module", GROUND)
def test_the_ground_floor_loads_nothing_gevent_patches(module):
    """Importing it in a clean interpreter adds no module that is patched or too early."""
    assert loaded_too_early(f"import {module}") == set()


def test_a_module_loaded_too_early_is_seen():
    """An import of ssl is found, with the modules it brings."""
    assert {"ssl", "socket", "selectors"} <= loaded_too_early("import ssl")
    assert loaded_too_early("import json") == set()


@pytest.mark.parametrize("room", NEEDS_ONLY_GEVENT)
def test_a_room_loads_with_gevent_alone(room):
    """A room not named after a package can be imported when no optional package is there."""
    done = run_clean(WITHOUT_OPTIONALS.format(optional=set(OPTIONAL), room=room))
    assert done.returncode == 0, done.stderr


def test_an_optional_package_at_a_door_is_seen():
    """The room of celery, which needs celery, fails when it is kept away."""
    done = run_clean(WITHOUT_OPTIONALS.format(optional=set(OPTIONAL), room="celery"))
    assert done.returncode != 0
    assert "kept away by this test" in done.stderr
