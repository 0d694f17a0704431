from __future__ import annotations

import importlib
import sys
import types

import pytest

from greenkit.boot import on_import
from greenkit.boot._imports import _FINDER


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A module that can be imported and was not yet."""
    (tmp_path / "late_driver.py").write_text("loaded = True\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "late_driver"
    sys.modules.pop("late_driver", None)
    _FINDER.wanted.pop("late_driver", None)


def test_the_callback_waits_for_the_import(package):
    """Nothing is imported by asking; the callback runs once, after the module's own code."""
    seen = []
    on_import(package, lambda: seen.append(sys.modules[package].loaded))
    assert package not in sys.modules
    module = importlib.import_module(package)
    importlib.import_module(package)
    assert seen == [True]
    assert type(module.__loader__).__name__ == "SourceFileLoader"
    assert module.__spec__.loader is module.__loader__


def test_the_finder_leaves_when_nothing_is_awaited(package):
    """A process whose drivers are all loaded has no finder of ours left."""
    on_import(package, lambda: None)
    assert _FINDER in sys.meta_path
    importlib.import_module(package)
    assert _FINDER not in sys.meta_path


def test_a_loaded_module_is_served_at_once(package):
    """Too late is not never."""
    importlib.import_module(package)
    seen = []
    on_import(package, lambda: seen.append(1))
    assert seen == [1]


def test_a_dotted_name_is_imported_only_then(package, tmp_path):
    """The hook may live in a room that must not be loaded before."""
    (tmp_path / "late_hook.py").write_text("calls = []\ndef install(): calls.append(1)\n")
    on_import(package, "late_hook:install")
    assert "late_hook" not in sys.modules
    importlib.import_module(package)
    assert sys.modules.pop("late_hook").calls == [1]


def test_other_hooks_still_find_their_modules(package, monkeypatch):
    """A foreign finder that asks the whole meta_path again neither loops nor loses its module."""
    asked = []

    class Foreign:
        def find_spec(self, name, path=None, target=None):
            if name == package and not asked:
                asked.append(name)
                return importlib.util.find_spec(name)
            return None

    monkeypatch.setattr(sys, "meta_path", [Foreign(), *sys.meta_path])
    seen = []
    on_import(package, lambda: seen.append(1))
    assert importlib.import_module(package).loaded
    assert (asked, seen) == ([package], [1])


def test_what_the_callback_raises_stops_the_import(package):
    """A refusal comes out of the import statement, and the module is not left behind."""

    def refuse():
        raise SystemExit("no")

    on_import(package, refuse)
    with pytest.raises(SystemExit):
        importlib.import_module(package)
    assert package not in sys.modules


def test_a_module_that_does_not_exist_is_not_invented(package):
    """Waiting for a package nobody has changes nothing about the ImportError."""
    on_import("no_such_driver", lambda: None)
    try:
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("no_such_driver")
    finally:
        _FINDER.wanted.pop("no_such_driver", None)
    assert isinstance(importlib.import_module(package), types.ModuleType)
