"""Call something when a package is imported later, without importing it now.

A driver's hook (psycopg2's wait callback) must be set when its package is there, and a process
that never uses the package must not pay for it. One finder at the head of `sys.meta_path` looks
only at names that were asked for, lets the other finders find them, and steps in after the module
has run. Imports nothing gevent patches.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

__all__ = ["call", "on_import"]


def on_import(name: str, callback: Callable[[], object] | str) -> None:
    """Have `callback` called once, when the module `name` has been imported.

    Called at once when it already is. What the callback raises comes out of the import statement.

    Args:
        name: Absolute name of the module.
        callback: A function without arguments, or "package.module:function" to be imported then.
    """
    module = sys.modules.get(name)
    if module is not None and not getattr(getattr(module, "__spec__", None), "_initializing", False):
        call(callback)
        return
    _FINDER.wanted.setdefault(name, []).append(callback)
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)


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

    __slots__ = ("looking", "wanted")

    def __init__(self) -> None:
        self.wanted: dict[str, list[Callable[[], object] | str]] = {}
        self.looking: set[str] = set()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in self.wanted or name in self.looking:
            return None
        self.looking.add(name)  # other people's finders ask the whole meta_path again
        try:
            spec = self._ask_the_others(name, path, target)
        finally:
            self.looking.discard(name)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _Loader(spec.loader)  # type: ignore[assignment]
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

    def imported(self, name: str) -> None:
        callbacks = self.wanted.pop(name, [])
        if not self.wanted and self in sys.meta_path:
            sys.meta_path.remove(self)
        for callback in callbacks:
            call(callback)


class _Loader:
    """Run the real loader, give the module back to it, then call the callbacks."""

    __slots__ = ("_real",)

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        create = getattr(self._real, "create_module", None)
        module: ModuleType | None = create(spec) if create is not None else None
        return module

    def exec_module(self, module: ModuleType) -> None:
        # First give the loader back: pkgutil and inspect look at its type.
        spec = module.__spec__
        if spec is not None:
            spec.loader = self._real
        module.__loader__ = self._real
        self._real.exec_module(module)
        _FINDER.imported(module.__name__)


_FINDER: Any = _Finder()
