"""`forbid()`: raise at a call that would block the hub, before it is made; for tests.

It sees the call of the C function, however the name was come by, so a stale `sleep` is caught as well as a
lock from before the patch. It cannot see `with lock:` (no call event for `__enter__`), nor what C code calls.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gevent
from greenlet import getcurrent

from greenkit import errors
from greenkit.errors import BlockingCallError
from greenkit.watchdog._calls import listen, silence
from greenkit.watchdog._judge import judge
from greenkit.watchdog._look import Spot, spawned

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import FrameType, TracebackType

__all__ = ["Forbidding", "forbid"]

# gevent asks the originals without waiting, or knows why; so do we.
_TRUSTED = tuple(str(Path(one).parent) + os.sep for one in (gevent.__file__, errors.__file__))
_active: list[Forbidding] = []


def forbid(*, allow: Iterable[str] = (), also: Iterable[str] = ()) -> Forbidding:
    """Raise `BlockingCallError` at this thread's blocking calls; a context manager or a decorator.

    In the greenlet that entered, it raises at the call alone. What was raised in another greenlet is raised
    again at the end of the block, where a test can see it. Nested, the innermost decides.

    Args:
        allow: What may block: a C function (`fcntl.flock`), a file (`shop/legacy.py`) or a function in a
            file (`shop/legacy.py:warm_up`), each with all it calls; `*` for everything.
        also: C functions to refuse besides, such as `sqlite3.Cursor.execute`.

    Raises:
        ValueError: `also` names no C function.
        RuntimeError: On entry: every tool id of `sys.monitoring` is taken.

    Switches: never.
    """
    return Forbidding(allow, also)


class Forbidding(contextlib.ContextDecorator):
    """Made by `forbid()`.

    Attributes:
        caught: What was raised so far, oldest first.
    """

    def __init__(self, allow: Iterable[str], also: Iterable[str]) -> None:
        self.caught: list[BlockingCallError] = []
        self._elsewhere: list[BlockingCallError] = []
        self._allow = tuple(allow)
        self._judge = judge(tuple(also))
        self._home: Any = None

    def __enter__(self) -> Forbidding:
        self.caught.clear()
        self._elsewhere.clear()
        self._home = getcurrent()
        listen(self)
        _active.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _active.remove(self)
        if _active:
            listen(_active[-1])
        else:
            silence()
        if error is None and self._elsewhere:
            raise self._elsewhere[0]

    # -- what the interpreter asks --------------------------------------------

    @property
    def suspects(self) -> frozenset[int]:
        """Return the ids of what it refuses."""
        return self._judge.ids

    def knows(self, callee: Any) -> bool:
        """Tell whether it is a suspect."""
        return self._judge.suspect(callee) is not None

    def keeps(self, name: str) -> bool:
        """Tell whether suspects go by this name, common ones of dictionaries aside."""
        return name != "get" and name in self._judge.names

    def call(self, frame: FrameType, offset: int, callee: Any, first: Any) -> None:
        """Raise when the call would wait and nobody allowed it."""
        found = self._judge.suspect(callee)
        if found is None or frame.f_code.co_filename.startswith(_TRUSTED):
            return
        one, bound = found
        owner = first if bound is None else bound
        if not self._judge.waits(one, owner, frame, offset) or getcurrent() is gevent.get_hub():
            return
        if {one.call, "*"} & set(self._allow) or any(self._allows(outer) for outer in _outwards(frame)):
            return
        users = next((spot for spot in map(_spot, _outwards(frame)) if spot.users), None)
        where = users or spawned(getcurrent()) or _spot(frame)
        error = BlockingCallError(
            f"{one.call}() would block the hub, and with it every greenlet of this process, in {where}."
            f" {one.instead}",
            call=one.call,
            where=str(where),
        )
        self.caught.append(error)
        if getcurrent() is not self._home:
            self._elsewhere.append(error)
        raise error

    def _allows(self, frame: FrameType) -> bool:
        file = frame.f_code.co_filename
        for entry in self._allow:
            path, _, function = entry.partition(":")
            here = file == path or file.endswith(os.sep + path)
            if here and function in {"", frame.f_code.co_name, _spot(frame).function}:
                return True
        return False


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _spot(frame: FrameType) -> Spot:
    return Spot(frame.f_code, frame.f_lineno or 0)
