"""What happens to a worker of an installed app, from its first signal to its last.

Runs inside Celery's `worker_init`: the app and its tasks are imported, the pool is not yet built.
An exception out of that signal is swallowed by Celery; only `SystemExit` stops the worker, so
every refusal here is one.
"""

from __future__ import annotations

import os
import sys
import traceback
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import signals
from celery.concurrency import get_implementation
from celery.utils.log import get_logger
from kombu.asynchronous import get_event_loop, set_event_loop
from kombu.utils.imports import symbol_by_name

from greenkit import metrics, watchdog
from greenkit.boot import hook_drivers, patched, read_settings
from greenkit.celery import _child_greenlets, _control, _lifespan, _recycle, _task_body, _upstream
from greenkit.celery._consumer import OneWriter
from greenkit.celery._event_loop import GreenHub
from greenkit.celery._options import Options, unknown_keys
from greenkit.celery._start import look_at_the_process, refuse
from greenkit.celery.gevent import TaskPool
from greenkit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import ExitStack

__all__ = ["prepare"]

_logger = get_logger(__name__)


def prepare(worker: Any, given: Mapping[str, Any], undo: ExitStack) -> None:
    """Fit greenkit into `worker`, a `WorkController` that has not built its pool.

    Args:
        worker: Which one.
        given: Options that were arguments of `install()`.
        undo: Gets what takes everything back that outlives the worker.

    Raises:
        SystemExit: The worker could not keep its word; the sentence says what to change.
    """
    try:
        _fit(worker, Options.read(worker.app.conf, given), undo)
    except ConfigError as exc:
        refuse(str(exc))
    except Exception as exc:
        # Celery would swallow it, and the worker would run half installed.
        traceback.print_exc()
        refuse(f"could not prepare this worker: {exc!r}")


def _fit(worker: Any, options: Options, undo: ExitStack) -> None:
    _control.register()
    for sentence in unknown_keys(worker.app):
        _say(worker, undo, sentence)
    green = _is_green(worker)
    _check(worker, options, undo, green=green)
    if green:
        _go_green(worker, options, undo)
    else:
        _say(worker, undo, _what_is_active(worker))
        _open_resources(worker, options, undo)
        _task_body.wrap(worker.app.tasks.values(), edges=False, retry_limited=options.retry_limited)
    undo.callback(_task_body.unwrap, worker.app.tasks.values())


def _what_is_active(worker: Any) -> str:
    if patched():
        return (
            f"this process is patched by gevent but its pool is {_pool_name(worker)}; start it "
            "with -P gevent, or without the patch"
        )
    return (
        f"pool {_pool_name(worker)} keeps Celery's own delivery, limits and shutdown; active "
        "here: retry on WouldWait and RateLimited, limits of tasks, inspect greenkit"
    )


def _open_resources(worker: Any, options: Options, undo: ExitStack) -> None:
    """Open and close what tasks share where our pool does not."""
    if "prefork" in _pool_name(worker):
        undo.callback(_lifespan.in_children(options.warm_up))
        return
    _lifespan.open_resources(options.warm_up)
    _on(signals.worker_shutdown, lambda **_: _lifespan.close_resources(), undo)


def _on(signal: Any, receiver: Callable[..., None], undo: ExitStack) -> None:
    signal.connect(receiver, weak=False)
    undo.callback(signal.disconnect, receiver)


def _pool_name(worker: Any) -> str:
    pool = worker.pool_cls
    return pool if isinstance(pool, str) else f"{pool.__module__}:{pool.__name__}"


def _say(worker: Any, undo: ExitStack, sentence: str) -> None:
    """Log once, when the worker is ready: until then it has no logging."""

    def on_ready(sender: Any = None, **_: Any) -> None:
        if getattr(sender, "controller", worker) is worker:
            _logger.warning("greenkit: %s", sentence)

    _on(signals.worker_ready, on_ready, undo)


def _is_green(worker: Any) -> bool:
    pool = get_implementation(worker.pool_cls)
    # By name, not by class: importing Celery's gevent pool is what marks a worker as green.
    stock = getattr(sys.modules.get("celery.concurrency.gevent"), "TaskPool", TaskPool)
    return isinstance(pool, type) and issubclass(pool, (stock, TaskPool))


def _check(worker: Any, options: Options, undo: ExitStack, *, green: bool) -> None:
    """Refuse what would start, say "ready", and never run a task."""
    if green and worker.options.get("beat"):
        refuse("-B does not work in a gevent worker: run `celery beat` as its own process")
    warn = partial(_say, worker, undo) if options.unpatched == "warn" else None
    patched_now = patched()
    look_at_the_process(_pool_name(worker), green=green, warn=warn)

    def on_start(**_: Any) -> None:
        if patched() != patched_now:  # by a receiver of `worker_init` that came after us
            look_at_the_process(_pool_name(worker), green=green, warn=warn)

    _on(signals.celeryd_after_setup, on_start, undo)


def _go_green(worker: Any, options: Options, undo: ExitStack) -> None:
    loop = _make_loop(worker, undo)
    # As greenkit.auto does, which a worker under `celery -P gevent` may go without.
    metrics.from_environ()
    metrics.heartbeat()

    class Pool(TaskPool):
        """The worker's pool with its worker's options."""

        # With the event loop, remote control shares the consumer's connection and is
        # started anew with it; Celery's green variant dies with a connection of its own.
        is_green = loop is None
        Timer = symbol_by_name("celery.concurrency.gevent:Timer")

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.settings = options
            self.window = lambda places: _move_window(worker.consumer, places)
            self.stop_consuming = lambda: _stop_consuming(worker, loop)
            if loop is not None:
                loop.timer = worker.timer

    Pool.__module__, Pool.__qualname__, Pool.__name__ = TaskPool.__module__, "TaskPool", "TaskPool"
    worker.pool_cls = Pool
    undo.callback(_child_greenlets.unwatch_spawns)
    plain_signals = _upstream.signals_in_greenlets(
        loop.wake if loop else _nothing,
        restart=lambda: _restart(worker),
        on_stop=_recycle.note_stop_signal,
    )
    undo.callback(_recycle.stay_ended)
    undo.callback(_upstream.close_steps_once())
    undo.callback(_upstream.store_base_exceptions())
    if read_settings(os.environ).mode != "off":
        hook_drivers()  # what `import greenkit.auto` has done already, and Celery's own patch has not
    undo.callback(_connect(worker, options, undo, plain_signals))


def _make_loop(worker: Any, undo: ExitStack) -> GreenHub | None:
    """Have the worker run on our event loop; None when its transport has no asynchronous side.

    Celery asks kombu for a ready-made loop before it makes its own (celery/worker/components.py,
    `Hub.create`). The timer the loop runs on is the worker's, which does not exist yet.
    """
    if not worker._conninfo.transport.implements.asynchronous:
        return None
    worker.use_eventloop = True
    loop = GreenHub()
    undo.callback(set_event_loop, get_event_loop())
    set_event_loop(loop)
    steps = worker.app.steps["consumer"]
    steps.add(OneWriter)
    undo.callback(steps.discard, OneWriter)
    return loop


def _connect(
    worker: Any, options: Options, undo: ExitStack, plain_signals: Callable[[], None]
) -> Callable[[], None]:
    """Follow the worker's life; return what ends the part that ends with it."""

    def on_shutting_down(**_: Any) -> None:
        if getattr(worker, "pool", None) is not None:
            worker.pool.stop_recycling()
            worker.pool.pause()

    ours: list[watchdog.Watchdog] = []

    def on_ready(**_: Any) -> None:
        if options.watchdog is not None:
            ours.append(watchdog.start(threshold=options.watchdog))

    def on_shutdown(**_: Any) -> None:
        if watchdog.running() in ours:
            watchdog.stop()
        if worker.exitcode is _recycle.RECYCLED:
            _recycle.start_anew_at_exit()
        plain_signals()

    _on(signals.worker_shutting_down, on_shutting_down, undo)
    _on(signals.worker_ready, on_ready, undo)
    _on(signals.worker_shutdown, on_shutdown, undo)
    return on_shutdown


def _stop_consuming(worker: Any, loop: GreenHub | None) -> None:
    """Have the loop stop fetching; without one the full window does, and a second greenlet must not."""
    consumer = getattr(worker.consumer, "task_consumer", None)
    if loop is not None and consumer is not None:
        loop.call_soon(consumer.cancel)


def _restart(worker: Any) -> None:
    """Do what SIGHUP asks for: drain, and become a new process."""
    if _recycle.told_to_stop():
        return
    if getattr(worker, "pool", None) is None:  # it has not started yet
        _recycle.end_worker("exec")
    else:
        worker.pool.recycle("exec", "SIGHUP")


def _move_window(consumer: Any, places: int) -> None:
    # As for ETA tasks (celery/worker/strategy.py): what waits here takes no other message's place.
    move = consumer.qos.increment_eventually if places > 0 else consumer.qos.decrement_eventually
    move(abs(places))


def _nothing() -> None:
    pass
