"""What a worker opens once for all its tasks: `@on_worker_start`, `@on_worker_stop`, warm-up imports.

Run before the first message is taken and after the last task has ended. In a prefork worker each
child runs them for itself, since connections do not survive a fork.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from celery import signals
from celery.utils.log import get_logger

from greenkit import aio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["close_resources", "in_children", "on_worker_start", "on_worker_stop", "open_resources"]

_logger = get_logger(__name__)
_openers: list[Callable[[], Any]] = []
_closers: list[Callable[[], Any]] = []


def on_worker_start(function: Callable[[], Any]) -> Callable[[], Any]:
    """Have `function()` called before a worker takes its first message; a decorator.

    In the order of registration. If one raises, the worker does not start.
    """
    if function not in _openers:
        _openers.append(function)
    return function


def on_worker_stop(function: Callable[[], Any]) -> Callable[[], Any]:
    """Have `function()` called after a worker's last task has ended; a decorator.

    In the reverse order of registration. One that raises is logged and the others still run.
    """
    if function not in _closers:
        _closers.append(function)
    return function


def open_resources(modules: Iterable[str]) -> None:
    """Import what the first tasks would otherwise wait for, then run the openers.

    Raises:
        Exception: Whatever an import or an opener raises.

    Switches: may.
    """
    for module in modules:
        importlib.import_module(module)
    for function in _openers:
        function()


def close_resources() -> None:
    """Run the closers, the last first, then end the loop of `greenkit.aio`, if there is one.

    Switches: may.
    """
    for function in reversed(_closers):
        _close(function)
    _close(aio.close)  # after the closers: theirs may be `aio.run(client.close())`


def _close(function: Callable[[], Any]) -> None:
    try:
        function()
    except Exception:
        _logger.exception("%s.%s() failed", function.__module__, function.__qualname__)


def in_children(modules: Iterable[str]) -> Callable[[], None]:
    """Do both in each child of a prefork worker that starts from now on; return what ends it.

    A child that cannot open does not start.
    """
    names = tuple(modules)

    def on_init(**_: Any) -> None:
        try:
            open_resources(names)
        except Exception as exc:  # Celery would log it, and give the child tasks
            _logger.exception("this child of the worker cannot start")
            raise SystemExit(1) from exc

    def on_shutdown(**_: Any) -> None:
        close_resources()

    signals.worker_process_init.connect(on_init, weak=False)
    signals.worker_process_shutdown.connect(on_shutdown, weak=False)

    def undo() -> None:
        signals.worker_process_init.disconnect(on_init)
        signals.worker_process_shutdown.disconnect(on_shutdown)

    return undo
