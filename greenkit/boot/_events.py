"""What gevent calls when anybody patches: the guard, and the snapshots evidence needs.

Both functions are entry points (`gevent.plugins.monkey.will_patch_all` / `did_patch_all`), so
merely having greenkit installed cures `celery -P gevent`. An exception here would break somebody
else's patch, hence they never raise.
"""

from __future__ import annotations

import sys
import time

from greenkit.boot._caller import early_modules, outside_caller
from greenkit.boot._guard import GUARD
from greenkit.boot._record import RECORD

__all__ = ["on_did_patch_all", "on_will_patch_all"]

# Bound at import, before the patch: it is not a wait, and stays the same function.
_now = time.perf_counter


def on_will_patch_all(_event: object, /) -> None:
    """Arm the guard and note who patches; gevent calls it before it touches anything.

    Switches: never.
    """
    try:
        GUARD.arm()
        if RECORD.started is None:  # else our own patch() noted more, and earlier
            RECORD.started = _now()
            RECORD.by = outside_caller()
            RECORD.early = early_modules()
        RECORD.native_threads = _other_threads()
    except Exception:  # noqa: S110 - a guard that fails must not stop the patch it guards
        pass


def on_did_patch_all(_event: object, /) -> None:
    """Disarm the guard and note what the patch installed; gevent calls it when it is done.

    Switches: never.
    """
    try:
        GUARD.disarm()
        if RECORD.started is not None:
            RECORD.seconds = _now() - RECORD.started
        RECORD.modules = frozenset(sys.modules)
        RECORD.installed = _installed()
    except Exception:  # noqa: S110 - see above
        pass


def _other_threads() -> tuple[str, ...]:
    # Late: gevent has loaded threading; not patched yet, so this lists native threads.
    import threading

    return tuple(t.name for t in threading.enumerate() if t is not threading.main_thread())


def _installed() -> dict[tuple[str, str], object]:
    saved = sys.modules["gevent.monkey"].saved
    return {
        (module, attribute): getattr(sys.modules[module], attribute, None)
        for module, items in saved.items()
        if module in sys.modules
        for attribute in items
    }
