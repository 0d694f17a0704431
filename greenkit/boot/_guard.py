"""Two standard-library functions narrowed while gevent's `patch_all` runs.

`patch_all` walks `gc.get_objects()` with `isinstance` (gevent 26.9,
`gevent/monkey/_patch_thread_common.py`), and `isinstance` reads `__class__`, which evaluates every
lazy proxy alive: Celery's imports all of kombu half-way through the patch, Django's settings
re-enter their own import and hang. gevent is only after two lock types, so it gets only those.

It also scans every installed distribution for entry points once per event, 25 times: the answer
of the first scan is kept while the patch lasts. Anybody else who calls either function in the
meantime gets the real answer.
"""

from __future__ import annotations

import gc
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType, TracebackType
    from typing import Any

__all__ = ["GUARD", "Guard"]


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
