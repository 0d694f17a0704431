"""Hear of every call of a C function before it is made: `sys.monitoring` where there is one, else a profiler.

From 3.12 on a call site that calls something innocent is switched off for good, so what remains costs little.
On 3.10 and 3.11 `sys.setprofile` hears every call; CPython takes a profile function that raises away, so it
is set again by the hub's next turn, and the greenlet in which it raised is not heard any more.
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

__all__ = ["Listener", "keep", "listen", "silence"]

_get_ident = get_original("_thread", "get_ident")
_name_of: Any = type.__dict__["__name__"].__get__


class Listener(Protocol):
    """What is asked about a call.

    Attributes:
        suspects: Ids of what it knows.
    """

    @property
    def suspects(self) -> frozenset[int]:
        """Return the ids of what it knows."""

    def knows(self, callee: Any) -> bool:
        """Tell whether calls of it are of interest."""

    def keeps(self, name: str) -> bool:
        """Tell whether a call site that calls something innocent by this name may call a suspect later."""

    def call(self, frame: FrameType, offset: int, callee: Any, first: Any) -> None:
        """Raise when this call must not be made; `first` is its first argument, or what it is bound to."""


_listener: Listener | None = None
_last: Listener | None = None
_installed = False
_kept = False
_thread = 0
_before: Any = None
_tool = -1


def listen(listener: Listener) -> None:
    """Ask `listener` about the calls of this thread, instead of whoever was asked before.

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
        _restart()  # what was innocent for the one before may not be for this one
    _renew()


def silence() -> None:
    """Ask nobody any more."""
    global _listener, _installed
    _listener = None
    if _installed and not (_kept and _KEEPS):
        _uninstall()
        _installed = False


def keep(on: bool) -> None:  # noqa: FBT001
    """Stay with the interpreter between two listeners, or no longer.

    To come and go makes the interpreter prepare every function anew that runs: some milliseconds a test.
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
        free = [one for one in (3, 4, 5, 1, 2, 0) if monitoring.get_tool(one) is None]
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
            # A callee that is not called by its own name came in a variable: another may come next time.
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
        """Do nothing: every call is heard."""

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
    """Return the name of a function, method or class; "" for whatever else can be called."""
    kind = type(callee)
    if kind is MethodType:
        return _name(callee.__func__)
    if kind in {FunctionType, MethodDescriptorType} or issubclass(kind, BuiltinFunctionType):
        return str(callee.__name__)
    return str(_name_of(callee)) if issubclass(kind, type) else ""
