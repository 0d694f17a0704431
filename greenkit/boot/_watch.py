"""Who imports what first, seen while it happens.

A finder at the head of `sys.meta_path` that finds nothing: it only notes whose import statement
is being served. `sys.addaudithook` would see the same and could never be taken away. Imports
nothing gevent patches.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

__all__ = ["importers", "is_users_file", "watch_imports"]

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
