"""Call something when a package is imported later, without importing it now.

A driver's hook (psycopg2's wait callback) must be set when its package is there, and a process
that never uses the package must not pay for it. One finder at the head of `sys.meta_path` looks
only at names that were asked for, lets the other finders find them, and steps in after the module
has run. A finder of somebody else that stands before ours and finds a module alone is made up for
at the next import of anything. Imports nothing gevent patches.
"""

from __future__ import annotations

import _thread
import os
import sys
from types import ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import FrameType
    from typing import Any

__all__ = ["call", "importers", "is_users_file", "on_import", "watch_imports"]

importers: dict[str, tuple[str, ...]] = {}
"""Module → `file:line` of the imports that brought it, the innermost first. The last one is in the
user's own file, unless no frame is."""

_STDLIB = os.path.dirname(os.__file__) + os.sep  # noqa: PTH120 - pathlib is not worth its import here
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep  # noqa: PTH100, PTH120
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


def watch_imports() -> Callable[[], None]:
    """Note in `importers` who imports each module from now on; return the function that ends it.

    Other import hooks keep working, and are seen through. A module that a finder standing before
    this one serves is not seen. What was noted stays.

    Switches: never.
    """
    watcher = _Watcher()
    sys.meta_path.insert(0, watcher)

    def stop() -> None:
        if watcher in sys.meta_path:
            sys.meta_path.remove(watcher)

    return stop


class _Watcher:
    """Answer "not mine" to every import, and remember who asked."""

    __slots__ = ()

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        # The last one asking before the module is there is the one who imported it: an earlier
        # `importlib.util.find_spec()` only looked, an earlier import failed.
        if name not in sys.modules:
            chain = _chain(sys._getframe(1))
            if chain:
                importers[name] = chain


def _chain(frame: FrameType | None) -> tuple[str, ...]:
    places = []
    served = False  # we are in the import system's frames of one import statement
    while frame is not None:
        code = frame.f_code
        file = code.co_filename
        if file.startswith("<frozen importlib"):
            served = served or code.co_name == "_find_and_load"
        elif served and frame.f_globals.get("__name__") != "importlib":  # import_module() is a way, no one
            places.append(f"{file}:{frame.f_lineno}")
            if is_users_file(file):
                break
            served = False
        frame = frame.f_back
    return tuple(places)


def is_users_file(file: str) -> bool:
    """Tell whether `file` is neither the standard library's nor installed nor greenkit's.

    Switches: never.
    """
    if file.startswith("<"):
        return file in {"<string>", "<stdin>"}
    installed = any(part in file for part in _INSTALLED)
    return not installed and not file.startswith((_STDLIB, _OURS))


_Spec: Any = type(sys.__spec__)


def on_import(name: str, callback: Callable[[], object] | str) -> None:
    """Have `callback` called once, when the module `name` has been imported.

    Called at once when it already is. What the callback raises comes out of the import statement,
    and it is called again when the import is tried again.

    Args:
        name: Absolute name of the module.
        callback: A function without arguments, or "package.module:function" to be imported then.
    """
    if _is_imported(name):
        call(callback)
        return
    _FINDER.wanted.setdefault(name, []).append(callback)
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)


def _is_imported(name: str) -> bool:
    module: Any = sys.modules.get(name)
    if module is None:
        return False
    if type(module).__name__ == "_LazyModule":  # importlib's: looking at an attribute would load it
        return False
    if not issubclass(type(module), ModuleType):
        return True  # somebody's stand-in, put there whole
    # Its dictionary, not its attributes: a module may answer for those itself.
    spec = object.__getattribute__(module, "__dict__").get("__spec__")
    return not getattr(spec, "_initializing", False)


def _watch_the_end(name: str) -> None:
    """Have the callbacks of `name`, which is being imported past us, called when it is whole.

    importlib marks a spec as initializing and takes the mark away at the end
    (`_bootstrap._load_unlocked`, 3.10 to 3.14).
    """
    spec = object.__getattribute__(sys.modules[name], "__dict__").get("__spec__")
    if type(spec) is not _Spec:
        return

    class Watched(_Spec):  # type: ignore[misc]
        def __setattr__(self, attribute: str, value: object) -> None:
            super().__setattr__(attribute, value)
            if attribute == "_initializing" and not value:
                self.__class__ = _Spec
                if name in sys.modules:  # else it failed
                    _FINDER.imported(name)

    spec.__class__ = Watched


def call(callback: Callable[[], object] | str) -> None:
    """Call a function, or the one that "package.module:function" names, imported now."""
    if isinstance(callback, str):
        # Late: the room named here may need gevent, or an optional package.
        from importlib import import_module

        room, _, function = callback.partition(":")
        callback = getattr(import_module(room), function)
    callback()  # type: ignore[operator]


class _Finder:
    """Wrap the loader of a wanted module; whoever finds it keeps finding it."""

    __slots__ = ("looking", "running", "wanted")

    def __init__(self) -> None:
        self.wanted: dict[str, list[Callable[[], object] | str]] = {}
        # (thread or greenlet, module): another one may look for the same module meanwhile.
        self.looking: set[tuple[int, str]] = set()
        self.running: set[str] = set()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        looking = (_thread.get_ident(), name)
        if looking in self.looking:
            return None
        if name not in self.wanted:
            self._catch_up()
            return None
        self.looking.add(looking)  # other people's finders ask the whole meta_path again
        try:
            spec = self._ask_the_others(name, path, target)
        finally:
            self.looking.discard(looking)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _Loader(spec.loader, name)  # type: ignore[assignment]
        return spec

    def _ask_the_others(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None
    ) -> ModuleSpec | None:
        for finder in list(sys.meta_path):
            find_spec = getattr(finder, "find_spec", None)
            if finder is not self and find_spec is not None:
                spec: ModuleSpec | None = find_spec(name, path, target)
                if spec is not None:
                    return spec
        return None

    def _catch_up(self) -> None:
        """Serve what was imported past us, and stand at the head again.

        Finders that import by themselves (typeguard's) and loaders without `exec_module` do that.
        """
        head = sys.meta_path
        # Within importlib's loop over this list: what stands behind us stays where it is.
        if head and head[0] is not self and self in head:
            head.remove(self)
            head.insert(0, self)
        # None in `sys.modules` forbids a module: nothing is being imported, nor will be.
        here = [one for one in self.wanted if sys.modules.get(one) is not None]
        for name in [one for one in here if one not in self.running]:
            if _is_imported(name):
                self.imported(name)
            else:
                _watch_the_end(name)

    def imported(self, name: str) -> None:
        callbacks = self.wanted.pop(name, [])
        if not self.wanted and self in sys.meta_path:
            sys.meta_path.remove(self)
        try:
            while callbacks:
                call(callbacks[0])
                del callbacks[0]
        except BaseException:
            # The import fails with it; when it is tried again, so is the callback.
            for callback in callbacks:
                self.wanted.setdefault(name, []).append(callback)
            if self not in sys.meta_path:
                sys.meta_path.insert(0, self)
            raise


class _Loader:
    """Run the real loader, give the module back to it, then call the callbacks."""

    __slots__ = ("_name", "_real")

    def __init__(self, real: Any, name: str) -> None:
        self._real = real
        self._name = name  # a module may give itself another __name__

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        create = getattr(self._real, "create_module", None)
        module: ModuleType | None = create(spec) if create is not None else None
        return module

    def exec_module(self, module: ModuleType) -> None:
        # First give the loader back: pkgutil and inspect look at its type.
        # Unless somebody wrapped us in a loader of their own: that one stays.
        ours: Any = self
        spec = module.__spec__
        if spec is not None and spec.loader is ours:
            spec.loader = self._real
        if getattr(module, "__loader__", None) is ours:
            module.__loader__ = self._real
        _FINDER.running.add(self._name)
        try:
            self._real.exec_module(module)
        finally:
            _FINDER.running.discard(self._name)
        _FINDER.imported(self._name)


_FINDER: Any = _Finder()
