"""Recognise a suspect by the object that is called, and say whether this very call would wait.

Looks at identity only: the callee may be anything, and its own code must not run here.
"""

from __future__ import annotations

import functools
import inspect
from importlib import import_module
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from gevent.monkey import get_original

from greenkit.watchdog._call import written_arguments
from greenkit.watchdog._suspects import SUSPECTS, Harmless, Suspect, remedy

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType

__all__ = ["Judge", "judge"]

# Types that go by no name of their own in every version.
_FACTORIES = {"_thread.lock": "allocate_lock", "select.poll": "poll"}
_FLAGS = frozenset({"LOCK_NB", "LOCK_UN", "WNOHANG"})


class Judge:
    """Tell suspects from other calls.

    Args:
        also: Further C functions, such as "sqlite3.Cursor.execute".

    Raises:
        ValueError: One of them does not exist.
    """

    __slots__ = ("_suspects", "ids", "names")

    def __init__(self, also: Iterable[str] = ()) -> None:
        # By id, and kept alive: `callee in suspects` would run the callee's own __hash__ and __eq__.
        self._suspects: dict[int, tuple[Any, Suspect]] = {}
        for one in SUSPECTS:
            self._add(one)
        for call in also:
            if not self._add(Suspect(call, remedy(call))):
                raise ValueError(
                    f"no C function {call!r} to forbid; write module.function or module.Class.method"
                )
        self.names = frozenset(one.call.rpartition(".")[2] for _, one in self._suspects.values())
        """What suspects are called by."""
        self.ids = frozenset(self._suspects)
        """What tells them, as long as this lives."""

    def _add(self, one: Suspect) -> bool:
        original = _original(one.call)
        if original is not None:
            self._suspects[id(original)] = (original, one)
        return original is not None

    def suspect(self, callee: Any) -> tuple[Suspect, Any] | None:
        """Return (what is known about the callee, what it is bound to or None); None for the innocent."""
        found = self._suspects.get(id(callee))
        if found is not None:
            return found[1], None
        if not issubclass(type(callee), BuiltinFunctionType):
            return None
        bound = callee.__self__
        if bound is None or issubclass(type(bound), ModuleType):
            return None
        found = self._suspects.get(id(inspect.getattr_static(type(bound), callee.__name__, None)))
        return (found[1], bound) if found is not None else None

    def waits(self, one: Suspect, owner: Any, frame: FrameType, offset: int) -> bool:
        """Tell whether the call of `one` on `owner` that stands at `offset` of `frame` would wait."""
        if one.harmless is Harmless.NEVER:
            return True
        if one.harmless is Harmless.SOCKET:
            return bool(_timeout_of(owner) != 0)
        names, zero = written_arguments(frame.f_code, offset)
        if one.harmless is Harmless.FLAG:
            return not names & _FLAGS
        if zero:
            return False
        if one.harmless is Harmless.LOCK:
            return not _is_free(owner)
        return bool(owner.empty()) if one.harmless is Harmless.QUEUE else True


@functools.cache
def judge(also: tuple[str, ...]) -> Judge:
    """Return the judge of these; to look up some fifty names for every test would be slow.

    Raises:
        ValueError: As `Judge` does.
    """
    return Judge(also)


def _is_free(lock: Any) -> bool:
    if not lock.acquire(False):
        return False
    lock.release()
    return True


def _original(call: str) -> Any:
    """Return the C function that `module.name` or `module.Class.name` stood for before the patch, or None."""
    module, *names = call.split(".")
    try:
        import_module(module)
        factory = _FACTORIES.get(f"{module}.{names[0]}")
        value: Any = type(get_original(module, factory)()) if factory else get_original(module, names[0])
        for name in names[1:]:
            value = inspect.getattr_static(value, name)
        # `socket.getaddrinfo` and `signal.sigwait` are Python around the C function of `_socket`, `_signal`.
        return getattr(import_module(f"_{module}"), names[0]) if type(value) is FunctionType else value
    except (ImportError, AttributeError, IndexError):
        return None


_timeout_of = _original("socket.socket.gettimeout")
