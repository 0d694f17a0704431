"""`forbid()`: raise at a call that would block the hub, before it is made; for tests.

It sees the call of the C function, by whatever name, so it catches a stale `sleep` as well as a lock made
before the patch. It cannot see `with lock:` (`__enter__` has no call event), nor calls made by C code.
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

# gevent and greenkit call the originals without waiting, or on purpose.
_TRUSTED = tuple(str(Path(file).parent) + os.sep for file in (gevent.__file__, errors.__file__))
_active: list[Forbidding] = []


def forbid(*, allow: Iterable[str] = (), also: Iterable[str] = ()) -> Forbidding:
    """Raise `BlockingCallError` at this thread's blocking calls; a context manager or a decorator.

    In the greenlet that entered, it raises at the call only. An error raised in another greenlet is raised
    again at the end of the block, where a test can see it. When nested, the innermost decides.

    Args:
        allow: May block: a C function (`fcntl.flock`), a file (`shop/legacy.py`) or a function in a
            file (`shop/legacy.py:warm_up`), each with everything it calls; `*` for all.
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
        caught: The errors raised so far, oldest first.
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

    # -- the Listener protocol ------------------------------------------------

    @property
    def suspects(self) -> frozenset[int]:
        """Return the ids of the callables it refuses."""
        return self._judge.ids

    def knows(self, callee: Any) -> bool:
        """Tell whether `callee` is a suspect."""
        return self._judge.suspect(callee) is not None

    def keeps(self, name: str) -> bool:
        """Tell whether a suspect has this name; `get` is excluded, since dictionaries have it."""
        return name != "get" and name in self._judge.names

    def call(self, frame: FrameType, offset: int, callee: Any, first: Any) -> None:
        """Raise when the call would wait and is not allowed."""
        found = self._judge.suspect(callee)
        if found is None or frame.f_code.co_filename.startswith(_TRUSTED):
            return
        suspect, bound = found
        owner = first if bound is None else bound
        if not self._judge.waits(suspect, owner, frame, offset) or getcurrent() is gevent.get_hub():
            return
        if {suspect.call, "*"} & set(self._allow) or any(self._allows(outer) for outer in _outwards(frame)):
            return
        users = next((spot for spot in map(_spot, _outwards(frame)) if spot.users), None)
        where = users or spawned(getcurrent()) or _spot(frame)
        error = BlockingCallError(
            f"{suspect.call}() would block the hub, and with it every greenlet of this process, in {where}."
            f" {suspect.instead}",
            call=suspect.call,
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
