from __future__ import annotations

import importlib
import importlib.util
import sys

import pytest

from greenkit.boot import importers, watch_imports


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Modules of a project and of an installed package; forgotten again afterwards."""
    site = tmp_path / "site-packages"
    site.mkdir()
    files = {
        tmp_path / "wi_app.py": "x = 1\nimport wi_jobs\n",
        tmp_path / "wi_jobs.py": "import wi_installed\n",
        site / "wi_installed.py": "def load():\n    import wi_leaf\nload()\n",
        site / "wi_leaf.py": "",
    }
    for path, text in files.items():
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(site))
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("wi_")]:
        del sys.modules[name]
        importers.pop(name, None)


def test_each_module_has_the_chain_that_brought_it(tree):
    """Innermost first, through installed packages, up to the first file of the user's own."""
    stop = watch_imports()
    try:
        importlib.import_module("wi_app")
    finally:
        stop()
    assert importers["wi_jobs"] == (f"{tree}/wi_app.py:2",)
    assert importers["wi_installed"] == (f"{tree}/wi_jobs.py:1",)
    assert importers["wi_leaf"] == (f"{tree}/site-packages/wi_installed.py:2", f"{tree}/wi_jobs.py:1")
    assert importers["wi_app"][0].startswith(__file__)


def test_it_ends_and_leaves_what_it_saw(tree):
    """After `stop()` nothing is noted, the finder is gone, and a second `stop()` does nothing."""
    before = list(sys.meta_path)
    stop = watch_imports()
    importlib.import_module("wi_leaf")
    stop()
    stop()
    assert sys.meta_path == before
    importlib.import_module("wi_jobs")
    assert "wi_leaf" in importers
    assert "wi_jobs" not in importers


def test_a_look_is_not_an_import(tree):
    """Who only asks where a module is did not bring it; who imports it later did."""
    stop = watch_imports()
    try:
        importlib.util.find_spec("wi_leaf")
        importlib.import_module("wi_installed")
    finally:
        stop()
    assert importers["wi_leaf"][0] == f"{tree}/site-packages/wi_installed.py:2"


class Asking:
    """A finder that asks all the others, as import hooks of agents do."""

    asked = 0

    def find_spec(self, name, path=None, target=None):
        if name != "wi_leaf":
            return None
        Asking.asked += 1
        others = (one for one in list(sys.meta_path) if one is not self and hasattr(one, "find_spec"))
        return next((spec for one in others if (spec := one.find_spec(name, path, target))), None)


def test_a_hook_of_others_is_seen_through(tree):
    """A finder in front that serves the module itself does not hide who imported it."""
    stop = watch_imports()
    asking = Asking()
    sys.meta_path.insert(0, asking)
    try:
        importlib.import_module("wi_installed")
    finally:
        sys.meta_path.remove(asking)
        stop()
    assert Asking.asked == 1
    assert importers["wi_leaf"][0] == f"{tree}/site-packages/wi_installed.py:2"
