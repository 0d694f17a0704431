"""Recognise a suspect by the called object, and tell whether this particular call would wait.

Compares identity only: the callee may be anything, and its own code must not run here.
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

# Types that have no public name in every version.
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
        # By id, objects kept alive: `callee in suspects` would run the callee's own __hash__ and __eq__.
        self._suspects: dict[int, tuple[Any, Suspect]] = {}
        for known in SUSPECTS:
            self._add(known)
        for call in also:
            if not self._add(Suspect(call, remedy(call))):
                raise ValueError(
                    f"no C function {call!r} to forbid; write module.function or module.Class.method"
                )
        self.names = frozenset(known.call.rpartition(".")[2] for _, known in self._suspects.values())
        """Names of the suspects."""
        self.ids = frozenset(self._suspects)
        """Ids of the suspects, valid as long as this object lives."""

    def _add(self, suspect: Suspect) -> bool:
        original = _original(suspect.call)
        if original is not None:
            self._suspects[id(original)] = (original, suspect)
        return original is not None

    def suspect(self, callee: Any) -> tuple[Suspect, Any] | None:
        """Return (the suspect, the object it is bound to or None); None when the callee is harmless."""
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

    def waits(self, suspect: Suspect, owner: Any, frame: FrameType, offset: int) -> bool:
        """Tell whether the call of `suspect` on `owner`, at `offset` of `frame`, would wait."""
        if suspect.harmless is Harmless.NEVER:
            return True
        if suspect.harmless is Harmless.SOCKET:
            return bool(_timeout_of(owner) != 0)
        names, zero = written_arguments(frame.f_code, offset)
        if suspect.harmless is Harmless.FLAG:
            return not names & _FLAGS
        if zero:
            return False
        if suspect.harmless is Harmless.LOCK:
            return not _is_free(owner)
        return bool(owner.empty()) if suspect.harmless is Harmless.QUEUE else True


@functools.cache
def judge(also: tuple[str, ...]) -> Judge:
    """Return the cached judge for `also`; looking up some fifty names for every test would be slow.

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
    """Return the original of `module.name` or `module.Class.name`, or None."""
    module, *names = call.split(".")
    try:
        import_module(module)
        factory = _FACTORIES.get(f"{module}.{names[0]}")
        value: Any = type(get_original(module, factory)()) if factory else get_original(module, names[0])
        for name in names[1:]:
            value = inspect.getattr_static(value, name)
        # `socket.getaddrinfo` and `signal.sigwait` are Python around functions of `_socket`, `_signal`.
        return getattr(import_module(f"_{module}"), names[0]) if type(value) is FunctionType else value
    except (ImportError, AttributeError, IndexError):
        return None


_timeout_of = _original("socket.socket.gettimeout")
