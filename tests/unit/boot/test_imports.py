from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
import threading
import types

import gevent
import pytest

from greenkit.boot import on_import, patched
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


def test_what_the_callback_raises_stops_the_import_each_time(package):
    """A refusal comes out of the import statement, and again when somebody tries again."""
    asked = []

    def refuse():
        asked.append(1)
        if len(asked) < 3:
            raise SystemExit("no")

    on_import(package, refuse)
    for _ in range(2):
        with pytest.raises(SystemExit):
            importlib.import_module(package)
        assert package not in sys.modules
    importlib.import_module(package)
    assert len(asked) == 3
    assert package not in _FINDER.wanted


def test_an_import_that_fails_is_awaited_again(package, tmp_path):
    """A module that raised once is served when it loads at last, once."""
    (tmp_path / f"{package}.py").write_text(
        "import os\nif 'FAIL' in os.environ: raise ImportError('not yet')\n"
    )
    seen = []
    on_import(package, lambda: seen.append(1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAIL", "1")
        for _ in range(2):
            with pytest.raises(ImportError, match="not yet"):
                importlib.import_module(package)
    assert seen == []
    importlib.import_module(package)
    assert seen == [1]


def test_a_submodule_first_serves_its_package(tmp_path, monkeypatch):
    """`import package.part` imports the package before the part: its callback comes first."""
    (tmp_path / "late_package").mkdir()
    (tmp_path / "late_package" / "__init__.py").write_text("")
    (tmp_path / "late_package" / "part.py").write_text("from late_package import __name__\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    seen = []
    for name in ("late_package.part", "late_package"):
        on_import(name, lambda name=name: seen.append((name, "late_package.part" in sys.modules)))
    try:
        importlib.import_module("late_package.part")
        assert seen == [("late_package", False), ("late_package.part", True)]
    finally:
        sys.modules.pop("late_package.part", None)
        sys.modules.pop("late_package", None)


class TakesItAll:
    """A finder as typeguard's: stands first, finds by itself, asks nobody."""

    def __init__(self, name, loader=None):
        self.name, self.loader = name, loader

    def find_spec(self, name, path=None, target=None):
        if name != self.name:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        spec.loader = self.loader(spec.loader) if self.loader else spec.loader
        return spec


def test_a_finder_that_finds_alone_is_made_up_for(package, monkeypatch):
    """A module imported past our finder is served at the next import, whatever it is."""
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    seen = []
    on_import(package, lambda: seen.append(1))
    sys.meta_path.insert(0, TakesItAll(package))
    importlib.import_module(package)
    assert seen == []
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("no_such_module_at_all")
    assert seen == [1]


@pytest.mark.parametrize("fails", [False, True])
def test_a_module_in_the_middle_of_its_import_is_awaited(package, tmp_path, monkeypatch, fails):
    """Found by somebody else, and importing something itself: served at its end, if it has one."""
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    text = "try:\n    import no_such_module_at_all\nexcept ImportError: pass\nloaded = True\n"
    (tmp_path / f"{package}.py").write_text(text + ("raise ImportError('broken')\n" if fails else ""))
    seen = []
    on_import(package, lambda: seen.append(sys.modules[package].loaded))
    sys.meta_path.insert(0, TakesItAll(package))
    if fails:
        with pytest.raises(ImportError, match="broken"):
            importlib.import_module(package)
        assert seen == []
        (tmp_path / f"{package}.py").write_text(text)
        importlib.invalidate_caches()
    module = importlib.import_module(package)
    assert seen == [True]
    assert type(module.__spec__) is importlib.machinery.ModuleSpec


def test_the_head_of_the_finders_is_taken_again(package, monkeypatch):
    """One import of anything else, and a finder put before ours is behind it."""
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    seen = []
    on_import(package, lambda: seen.append(1))
    taker = TakesItAll(package)
    sys.meta_path.insert(0, taker)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("no_such_module_at_all")
    assert sys.meta_path[:2] == [_FINDER, taker]
    importlib.import_module(package)
    assert seen == [1]


@pytest.mark.parametrize("ours_first", [True, False])
def test_a_loader_that_chains_ours_is_kept(package, monkeypatch, ours_first):
    """Post-import hooks as wrapt's wrap whatever loader they get: both are notified."""
    notified = []

    class Chained:
        def __init__(self, loader):
            self.loader = loader

        def create_module(self, spec):
            return self.loader.create_module(spec)

        def exec_module(self, module):
            self.loader.exec_module(module)
            notified.append(module.__name__)

    class AsksAgain(TakesItAll):
        def find_spec(self, name, path=None, target=None):
            if name != self.name or getattr(self, "busy", False):
                return None
            self.busy = True
            spec = importlib.util.find_spec(name)
            self.busy = False
            spec.loader = Chained(spec.loader)
            return spec

    seen = []
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    on_import(package, lambda: seen.append(1))
    sys.meta_path.insert(1 if ours_first else 0, AsksAgain(package))
    assert importlib.import_module(package).loaded
    assert (notified, seen) == ([package], [1])


def test_a_lazy_module_is_served_when_it_loads(package):
    """A LazyLoader puts an empty module first; looking does not load it, use does."""
    seen = []
    on_import(package, lambda: seen.append(1))
    spec = importlib.util.find_spec(package)
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[package] = module
    spec.loader.exec_module(module)
    on_import(package, lambda: seen.append(2))
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("no_such_module_at_all")
    assert seen == []
    assert module.loaded
    assert seen == [1, 2]


@pytest.mark.parametrize("green", [False, True], ids=["threads", "greenlets"])
def test_many_who_import_at_once_call_once(package, tmp_path, green):
    """Ten importers of one module, the first in the middle of it: one call, after its last line."""
    (tmp_path / f"{package}.py").write_text("import late_meeting\nlate_meeting.wait()\nloaded = True\n")
    (tmp_path / "late_meeting.py").write_text(
        "import gevent.event, threading\n"
        f"event = {'gevent.event' if green else 'threading'}.Event()\nwait = event.wait\n"
    )
    meeting = importlib.import_module("late_meeting")
    seen, got = [], []
    on_import(package, lambda: seen.append(sys.modules[package].loaded))

    def importer():
        got.append(importlib.import_module(package).loaded)

    try:
        if green:
            # Unpatched, two greenlets are one thread to the import lock: the second would see half a module.
            crew = [gevent.spawn(importer) for _ in range(10 if patched() else 1)]
            gevent.sleep(0)
            assert package in sys.modules, "nobody was in the middle of the import"
            assert seen == []
            meeting.event.set()
            gevent.joinall(crew, timeout=30)
        else:
            crew = [threading.Thread(target=importer) for _ in range(10)]
            for one in crew:
                one.start()
            while package not in sys.modules:
                gevent.sleep(0)
            assert seen == []
            meeting.event.set()
            for one in crew:
                one.join(30)
        assert got == [True] * len(crew)
        assert seen == [True]
    finally:
        sys.modules.pop("late_meeting", None)


def test_a_module_that_does_not_exist_is_not_invented(package):
    """Waiting for a package nobody has changes nothing about the ImportError."""
    on_import("no_such_driver", lambda: None)
    try:
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("no_such_driver")
    finally:
        _FINDER.wanted.pop("no_such_driver", None)
    assert isinstance(importlib.import_module(package), types.ModuleType)
