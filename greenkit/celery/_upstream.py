"""Everything that reaches into Celery or kombu where they have no extension point.

Each function says which file of which version it was read from, checks that what it needs is
there, and returns the function that takes it back. `tests/integration/test_celery_upstream.py`
says when upstream no longer needs it.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import gevent
from celery import platforms
from celery.utils.log import get_logger
from gevent.monkey import saved
from kombu.utils import eventio, functional

if TYPE_CHECKING:
    from collections.abc import Callable

    from greenkit.celery._loop import GreenHub

__all__ = ["batch_acks", "share_results", "signals_in_greenlets", "stale_waits"]

_logger = get_logger(__name__)


def signals_in_greenlets(then: Callable[[], None]) -> Callable[[], None]:
    """Have Celery's signal handlers run in a greenlet each, followed by `then()`.

    Python runs a handler in whatever greenlet is current, which in an idle worker is the hub: any
    wait in it, even a receiver's, raises `BlockingSwitchOutError`. Celery installs handlers through
    `celery.platforms.signals[...] =` only, again and again (celery/apps/worker.py, 5.7); so that
    object is exchanged for one that wraps.
    """
    original = platforms.signals

    class GreenSignals(type(original)):  # type: ignore[misc]
        def __setitem__(self, name: str, handler: Any) -> None:
            super().__setitem__(name, _in_greenlet(handler, then) if callable(handler) else handler)

    platforms.signals = GreenSignals()

    def undo() -> None:
        platforms.signals = original

    return undo


def _in_greenlet(handler: Callable[..., Any], then: Callable[[], None]) -> Callable[..., Any]:
    def run(signum: int, frame: Any) -> None:
        try:
            handler(signum, frame)
        finally:
            then()

    def on_signal(signum: int, frame: Any) -> None:
        gevent.spawn(run, signum, None)

    on_signal.__name__ = getattr(handler, "__name__", "handler")
    return on_signal


def stale_waits() -> list[str]:
    """Return names of kombu's waiting functions that still hold the blocking originals.

    They do when kombu was imported before gevent patched (kombu/utils/eventio.py, 5.3 to 5.7).
    """
    stale = []
    for module, name, source in ((eventio, "_selectf", "select"), (functional, "sleep", "time")):
        held = getattr(module, name, None)
        if held is not None and any(held is one for one in saved.get(source, {}).values()):
            stale.append(f"{module.__name__}.{name}")
    return stale


def batch_acks(channel: Any, loop: GreenHub, owed: list[str]) -> None:
    """Have the acks of a Redis channel that fall together go out in one pipeline.

    kombu sends MULTI, ZREM, HDEL, EXEC per ack and waits for it (kombu/transport/redis.py 5.7,
    `QoS.ack`). Here the window opens at once and the tags that gather while the loop turns leave
    together, by the same commands, so other workers see what they expect.

    Args:
        channel: The consumer's channel, before the first message.
        loop: Runs the flush, in the greenlet that owns the channel.
        owed: Tags acknowledged but not yet told to the broker. The caller keeps it over a lost
            connection: Redis takes an ack from any connection, so what was owed is paid later.
    """
    qos = channel.qos
    needed = ("_remove_from_indices", "pipe_or_acquire", "_quick_ack")
    if not all(hasattr(qos, name) for name in needed):
        _logger.warning("this kombu's Redis QoS has no %s; acks go out one by one", "/".join(needed))
        return

    def flush() -> None:
        while owed:  # again for what comes while execute() waits: nobody else would look
            tags = owed[:]
            with qos.pipe_or_acquire() as pipe:
                for tag in tags:
                    qos._remove_from_indices(tag, pipe)
                pipe.execute()
            del owed[: len(tags)]

    def ack(delivery_tag: str) -> None:
        if not owed:
            loop.call_soon(flush)
        owed.append(delivery_tag)
        qos._quick_ack(delivery_tag)

    qos.ack = ack
    if owed:
        loop.call_soon(flush)


def share_results(app: Any, *, connections: int) -> bool:
    """Have all tasks of a green worker store results through one Redis backend.

    `app.backend` is a `threading.local` value (celery/app/base.py 5.7): under gevent every task
    makes a backend, a client and a connection of its own and throws them away, which costs more
    than the task. Celery shares it when `result_backend_thread_safe` is set. A shared client
    needs a pool that waits: redis-py's raises `MaxConnectionsError` when full.

    Args:
        app: The Celery app, in a patched process.
        connections: Most connections to keep, unless `redis_max_connections` says otherwise.

    Returns:
        Whether it was done: not for other backends, nor for a Celery whose result consumer
        cannot be read from several greenlets (before 5.7).
    """
    try:
        from celery.backends.redis import RedisBackend, ResultConsumer, SentinelBackend
        from redis import BlockingConnectionPool
    except ImportError:
        return False
    if not hasattr(ResultConsumer, "_wait_for_pubsub"):
        return False
    before = app.conf.get("result_backend_thread_safe", False)
    app.conf.result_backend_thread_safe = True
    # In a greenlet of its own: a backend made earlier is bound to the current one.
    backend = gevent.spawn(getattr, app, "backend").get(timeout=10)
    fits = isinstance(backend, RedisBackend) and not isinstance(backend, SentinelBackend)
    if not (fits and hasattr(backend, "_ConnectionPool") and hasattr(backend, "connparams")):
        app.conf.result_backend_thread_safe = before
        app._backend_cache = None
        return False
    if backend._ConnectionPool is None:
        backend.connparams["max_connections"] = backend.max_connections or connections
        backend._ConnectionPool = functools.partial(BlockingConnectionPool, timeout=30)
    return True
