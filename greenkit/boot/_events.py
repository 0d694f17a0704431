"""What gevent calls when anybody patches: the guard, and the snapshots evidence needs.

Both functions are entry points (`gevent.plugins.monkey.will_patch_all` / `did_patch_all`), so
merely having greenkit installed cures `celery -P gevent`. An exception here would break somebody
else's patch, hence they never raise.
"""

from __future__ import annotations

import gc
import os
import sys
import time
import weakref
from types import FunctionType, MethodType

from greenkit.boot._imports import call
from greenkit.boot._plan import PATCHABLE
from greenkit.boot._record import RECORD, NativeThread, PatchCall, note_call
from greenkit.boot._scan import native_objects

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import FrameType, TracebackType
    from typing import Any

__all__ = ["GUARD", "Guard", "begin", "loaded_early", "on_did_patch_all", "on_will_patch_all"]


class Guard:
    """Stand in for `gc.get_objects` and `importlib.metadata.entry_points` during a patch.

    As a context manager it restores both whatever happens. Armed from gevent's own event there is
    no block to leave; should `patch_all` raise, the first caller after it puts things right.
    """

    __slots__ = ("_armed", "_real_entry_points", "_real_get_objects", "_scan", "_stand_ins")

    def __init__(self) -> None:
        self._armed = False
        self._real_get_objects: Any = gc.get_objects
        self._real_entry_points: Any = None
        self._stand_ins: tuple[Any, Any] = (None, None)
        self._scan: Any = None

    @property
    def armed(self) -> bool:
        """Tell whether the stand-ins are in place."""
        return self._armed

    def arm(self) -> bool:
        """Put the stand-ins in place; False when they already were."""
        if self._armed:
            return False
        # Late: it loads socket and threading. gevent.events loads it in any case.
        from importlib import metadata

        self._real_get_objects, self._real_entry_points = gc.get_objects, metadata.entry_points
        self._stand_ins = (self._lock_objects, self._entry_points)
        gc.get_objects, metadata.entry_points = self._stand_ins
        self._armed = True
        return True

    def disarm(self) -> None:
        """Put both functions back, unless somebody replaced them meanwhile."""
        if not self._armed:
            return
        # Late: see `arm`; by now it is loaded.
        from importlib import metadata

        self._armed = False
        if gc.get_objects is self._stand_ins[0]:
            gc.get_objects = self._real_get_objects
        if metadata.entry_points is self._stand_ins[1]:
            metadata.entry_points = self._real_entry_points
        self._scan = None

    def __enter__(self) -> Guard:
        self.arm()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.disarm()

    def _lock_objects(self, *args: Any, **kwargs: Any) -> list[Any]:
        if not self._asked_by(sys._getframe(1), "gevent.monkey"):
            return self._real_get_objects(*args, **kwargs)  # type: ignore[no-any-return]
        wanted = _lock_types()
        # type(o), never isinstance(o): the difference is this whole file.
        return [o for o in self._real_get_objects(*args, **kwargs) if issubclass(type(o), wanted)]

    def _entry_points(self, **params: Any) -> Any:
        if not params or not self._asked_by(sys._getframe(1), "gevent.events"):
            return self._real_entry_points(**params)
        if self._scan is None:
            self._scan = self._real_entry_points()
        return self._scan.select(**params)

    def _asked_by(self, caller: FrameType, package: str) -> bool:
        if not self._armed:
            return False
        if str(caller.f_globals.get("__name__", "")).startswith(package):
            return True
        if not any(_is_patching(frame) for frame in sys._current_frames().values()):
            self.disarm()  # patch_all raised after it had announced itself
        return False


def _lock_types() -> tuple[type, ...]:
    # Late: gevent has loaded it by the time this runs. The first is the expression gevent uses.
    import threading

    return type(threading.RLock()), sys.modules["_frozen_importlib"]._ModuleLock


def _is_patching(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name in {"patch_all", "patch"} and str(frame.f_globals.get("__name__")) in {
            "gevent.monkey",
            "greenkit.boot._patch",
        }:
            return True
        frame = frame.f_back
    return False


GUARD = Guard()
"""The guard of this process; gevent's events and our own `patch()` share it."""


# By name, as the hooks of drivers are: the doctor stands floors above, and only an observed process
# loads it.
_OBSERVER = "greenkit.doctor:report"
_MENDER = "greenkit.boot._patch:mend"
# Bound at import, before the patch: it is not a wait, and stays the same function.
_now = time.perf_counter
# What the patching thread was called before the patch.
_IDENT: list[int] = []


def begin() -> None:
    """Note who patches and what was there before; our own `patch()` can do it before gevent is loaded.

    Switches: never.
    """
    RECORD.calls = (note_call(),)
    RECORD.early = loaded_early()
    RECORD.started = _now()


def loaded_early() -> tuple[str, ...]:
    """Return the patchable modules loaded by now; those that gevent itself loaded are left out.

    Switches: never.
    """
    order = list(sys.modules)
    first_gevent = next((at for at, name in enumerate(order) if name.split(".")[0] == "gevent"), len(order))
    return tuple(name for name in order[:first_gevent] if name in PATCHABLE)


def on_will_patch_all(event: Any, /) -> None:
    """Arm the guard and note who patches; gevent calls it before it touches anything.

    Switches: never.
    """
    try:
        _IDENT[:] = [sys.modules["_frozen_importlib"]._thread.get_ident()]
        GUARD.arm()
        settings = getattr(event, "patch_all_arguments", {})
        if RECORD.started is None:
            begin()
            RECORD.calls = ()
        if not RECORD.calls or RECORD.modules:  # the first patch that gevent announces, or a second one
            RECORD.calls = (*RECORD.calls, note_call(settings, main_thread=_in_main_thread()))
        else:  # our own patch() noted the stack, and earlier
            RECORD.calls = (PatchCall(RECORD.calls[0].frames, dict(settings), _in_main_thread()),)
        if RECORD.modules or not RECORD.natives:  # once for each patch, however often it is announced
            RECORD.natives += tuple(weakref.ref(one) for one in native_objects())
        RECORD.native_threads = RECORD.native_threads or _other_threads()
    except Exception:  # noqa: S110 - a guard that fails must not stop the patch it guards
        pass


def on_did_patch_all(_event: object, /) -> None:
    """Disarm the guard and note who was there; gevent calls it when it is done.

    Switches: never.
    """
    try:
        _keep_import_locks()
        GUARD.disarm()
        if RECORD.started is not None and not RECORD.modules:
            RECORD.seconds = _now() - RECORD.started
        RECORD.modules = frozenset(sys.modules)
        if os.environ.get("GREENKIT_REPAIR", "0") != "0":
            call(_MENDER)
        if os.environ.get("GREENKIT_REPORT"):
            call(_OBSERVER)
    except Exception:  # noqa: S110 - see above
        pass


def _keep_import_locks() -> None:
    """Let the imports under way end in this thread, under the name importlib knows it by now.

    Otherwise the import that patched ends in "cannot release un-acquired lock". gevent sees to it, but
    not when another thread lives (an agent's, say); and it gives them the wrong name where importlib
    kept a `_thread` of its own, as under ddtrace-run, which loads a second one for the application.
    """
    importlib = sys.modules["_frozen_importlib"]
    ident = importlib._thread.get_ident()
    mine = {*_IDENT, ident, sys.modules["_thread"].get_ident()}
    for lock in [reference() for reference in list(importlib._module_locks.values())]:
        if lock is not None and lock.owner in mine:
            lock.owner = ident


def _in_main_thread() -> bool:
    # Late: gevent has loaded threading; it is not patched yet.
    import threading

    return threading.current_thread() is threading.main_thread()


def _other_threads() -> tuple[NativeThread, ...]:
    import threading

    return tuple(_described(t) for t in threading.enumerate() if t is not threading.main_thread())


def _described(thread: Any) -> NativeThread:
    fields: Mapping[str, Any] = object.__getattribute__(thread, "__dict__")
    target = fields.get("_target")
    if type(target) is MethodType:
        target = target.__func__
    runs = target if type(target) is FunctionType else type(thread)
    return NativeThread(str(fields.get("_name", "?")), str(runs.__module__), str(runs.__qualname__))
