"""The start-up hook: patch a Python program greenkit did not start, before its first import.

`_greenkit_children.pth` beside this package (from Python 3.15 on `_greenkit_children.start`) calls
`start()` when the interpreter starts, for `celery multi`, servers that exec, and any subprocess.
Enabled by `GREENKIT_CHILDREN=1`, which `greenkit run --children` sets; otherwise the file only reads that
variable. Whether to patch depends on the command line, as for `greenkit.auto`.
"""

from __future__ import annotations

import os
import sys

from greenkit.errors import ConfigError, PatchError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FILE", "patch", "start"]

FILE = "_greenkit_children.pth"
"""Name of the file in site-packages that calls `start()`."""

# These programs patch themselves, after parsing their own command line.
_THEMSELVES = frozenset({"greenkit", "gevent"})
# multiprocessing starts these with `-c`; they only pass on file descriptors.
_HELPERS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
# Before 3.13 `site` reads the .pth files of a venv twice.
_STARTED: list[bool] = []


def start() -> None:
    """Patch this process if the hook is enabled and the command line calls for it; never raises.

    A wrong `GREENKIT_…` value, or `GREENKIT=strict` and a finding that is an error, ends the
    process with status 2.
    """
    if os.environ.get("GREENKIT_CHILDREN", "0") in {"", "0"} or _STARTED:
        return
    _STARTED.append(True)
    _without_raising(_begin)


def patch() -> None:
    """Do what `import greenkit.auto` does; never raises."""
    _without_raising(_import_auto)


def _begin() -> None:
    if _is_not_ours():
        return
    if not _ddtrace_comes_first():
        _import_auto()
        return
    # Late: needed only here. ddtrace cannot be loaded after the patch (4.16); its
    # sitecustomize is the next thing the interpreter imports.
    from greenkit.boot import on_import

    on_import("sitecustomize", patch)


def _import_auto() -> None:
    # Late: importing it is what patches.
    import greenkit.auto  # noqa: F401


def _without_raising(act: Callable[[], None]) -> None:
    try:
        act()
    except (ConfigError, PatchError) as error:
        print(f"greenkit: {error}", file=sys.stderr, flush=True)  # noqa: T201
        # Not SystemExit: while `site` is imported it becomes a fatal error with a traceback.
        os._exit(2)
    except Exception as error:
        words = f"greenkit: the start-up hook failed: {type(error).__name__}: {error}; not patched"
        print(words, file=sys.stderr)  # noqa: T201


def _is_not_ours() -> bool:
    # Late: a start without the hook must not load it.
    from greenkit.boot import what_runs

    running = what_runs(sys.argv, sys.orig_argv)
    if sys.argv[:1] == ["-c"]:
        return any(helper in running for helper in _HELPERS)
    # The last part only: a project may live in a folder called greenkit.
    return os.path.basename(running).partition(".")[0] in _THEMSELVES  # noqa: PTH119


def _ddtrace_comes_first() -> bool:
    # ddtrace-run puts its own sitecustomize first on PYTHONPATH.
    places = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return any(place.rstrip("/").endswith("/ddtrace/bootstrap") for place in places)
