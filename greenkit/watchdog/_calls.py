"""Call a listener before every call of a C function: by `sys.monitoring` if there is one, else by a profiler.

From 3.12 on, a call site that calls something harmless is disabled for good, so the rest costs little.
On 3.10 and 3.11 `sys.setprofile` reports every call. CPython removes a profile function that raises, so the
hub's next iteration sets it again; the greenlet in which it raised is not profiled any more.
"""
# ruff: noqa: PLW0603 - the interpreter has one of each

from __future__ import annotations

import sys
from types import BuiltinFunctionType, FunctionType, MethodDescriptorType, MethodType
from typing import TYPE_CHECKING, Any, Protocol

import gevent
from gevent.monkey import get_original

if TYPE_CHECKING:
    from types import CodeType, FrameType

__all__ = ["Listener", "keep_instrumented", "listen", "silence"]

_get_ident = get_original("_thread", "get_ident")
_name_of: Any = type.__dict__["__name__"].__get__


class Listener(Protocol):
    """Decide about a call.

    Attributes:
        suspects: Ids of the callables it knows.
    """

    @property
    def suspects(self) -> frozenset[int]:
        """Return the ids of the callables it knows."""

    def knows(self, callee: Any) -> bool:
        """Tell whether `callee` is a suspect."""

    def keeps(self, name: str) -> bool:
        """Tell whether a call site with a harmless callee of this name may call a suspect later."""

    def call(self, frame: FrameType, offset: int, callee: Any, first: Any) -> None:
        """Raise when this call must not be made; `first` is its first argument, or its `__self__`."""


_listener: Listener | None = None
_last: Listener | None = None
_installed = False
_kept = False
_thread = 0
_before: Any = None
_tool = -1


def listen(listener: Listener) -> None:
    """Report this thread's calls to `listener`, in place of the previous listener.

    Raises:
        RuntimeError: Every tool id of `sys.monitoring` is taken.
    """
    global _listener, _last, _thread, _installed
    fresh, before = not _installed, _last
    if fresh:
        _install()
        _installed = True
    _listener, _last, _thread = listener, listener, _get_ident()
    if fresh or before is None or not listener.suspects <= before.suspects:
        _restart()  # call sites disabled for the previous listener may matter to this one
    _renew()


def silence() -> None:
    """Remove the listener."""
    global _listener, _installed
    _listener = None
    if _installed and not (_kept and _KEEPS):
        _uninstall()
        _installed = False


def keep_instrumented(on: bool) -> None:  # noqa: FBT001
    """Stay registered with the interpreter between two listeners, or stop doing so.

    Each new registration makes the interpreter instrument every function again: some milliseconds a test.
    """
    global _kept
    _kept = on
    if not on and _listener is None:
        silence()


if sys.version_info >= (3, 12):
    _KEEPS = True

    def _install() -> None:
        global _tool
        monitoring = sys.monitoring
        free = [tool for tool in (3, 4, 5, 1, 2, 0) if monitoring.get_tool(tool) is None]
        if not free:
            raise RuntimeError("every tool id of sys.monitoring is taken; end a profiler, tracer or debugger")
        _tool = free[0]
        monitoring.use_tool_id(_tool, "greenkit.watchdog.forbid")
        monitoring.register_callback(_tool, monitoring.events.CALL, _on_call)
        monitoring.set_events(_tool, monitoring.events.CALL)

    def _restart() -> None:
        sys.monitoring.restart_events()

    def _renew() -> None:
        """Do nothing: the interpreter keeps a callback that raises."""

    def _uninstall() -> None:
        sys.monitoring.set_events(_tool, 0)
        sys.monitoring.register_callback(_tool, sys.monitoring.events.CALL, None)
        sys.monitoring.free_tool_id(_tool)

    def _on_call(code: CodeType, offset: int, callee: Any, first: Any) -> Any:
        listener = _listener or _last
        if listener is None:
            return None
        if not listener.knows(callee):
            name = _name(callee)
            # A callee under another name was in a variable, which may hold a suspect next time.
            stays = name not in code.co_names or listener.keeps(name)
            return None if stays else sys.monitoring.DISABLE
        if _listener is not None and _get_ident() == _thread:
            listener.call(sys._getframe(1), offset, callee, first)
        return None

else:
    _KEEPS = False

    def _install() -> None:
        global _before
        _before = sys.getprofile()

    def _restart() -> None:
        """Do nothing: every call is reported."""

    def _renew() -> None:
        if _listener is not None:
            sys.setprofile(_on_profile)

    def _uninstall() -> None:
        sys.setprofile(_before if callable(_before) else None)

    def _on_profile(frame: FrameType, event: str, callee: Any) -> None:
        listener = _listener
        if event != "c_call" or listener is None or not listener.knows(callee):
            return
        try:
            listener.call(frame, frame.f_lasti, callee, getattr(callee, "__self__", None))
        except BaseException:
            gevent.get_hub().loop.run_callback(_renew)
            raise


def _name(callee: Any) -> str:
    """Return the name of a function, method or class; "" for any other callable."""
    kind = type(callee)
    if kind is MethodType:
        return _name(callee.__func__)
    if kind in {FunctionType, MethodDescriptorType} or issubclass(kind, BuiltinFunctionType):
        return str(callee.__name__)
    return str(_name_of(callee)) if issubclass(kind, type) else ""
