"""Everything that reaches into Celery or kombu where they have no extension point.

Each function says which file of which version it was read from, checks that what it needs is
there, and returns the function that takes it back. `tests/integration/test_celery_upstream.py`
says when upstream no longer needs it.
"""

from __future__ import annotations

import functools
from time import monotonic
from typing import TYPE_CHECKING, Any

import gevent
from celery import bootsteps, platforms
from celery.backends.base import Backend, DisabledBackend
from celery.utils.log import get_logger
from gevent.monkey import saved
from kombu.utils import eventio, functional

from greenkit.celery._recycle import STOP_SIGNALS

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "Silence",
    "close_steps_once",
    "no_second_silence",
    "notice_frozen_broker",
    "publish_once",
    "run_rate_limits_by_one_timer",
    "share_backend",
    "signals_in_greenlets",
    "stale_waits",
    "store_base_exceptions",
]

_logger = get_logger(__name__)
_SOCKET_TIMEOUT = 10.0
# As long as a worker takes that stops: between two commands it asks for its last word on a new connection.
_SILENT = 30.0
_RESULT_CONNECTIONS = 20
_LONGEST_WAIT = 30.0


def signals_in_greenlets(
    then: Callable[[], None], *, restart: Callable[[], None], on_stop: Callable[[], None]
) -> Callable[[], None]:
    """Have Celery's signal handlers run in a greenlet each, followed by `then()`.

    Args:
        then: Called in the greenlet.
        restart: Takes the place of Celery's restart on SIGHUP, which replaces the process from `atexit`
            whatever comes after it, with arguments that fit neither `-m` nor `--workdir`.
        on_stop: Called at once, in the native handler, by SIGTERM, SIGINT and SIGQUIT: a process
            that ends already may never run another greenlet.

    Python runs a handler in whatever greenlet is current, which in an idle worker is the hub: any
    wait in it, even a receiver's, raises `BlockingSwitchOutError`. Celery installs handlers through
    `celery.platforms.signals[...] =` only, again and again (celery/apps/worker.py, 5.7); so that
    object is exchanged for one that wraps.
    """
    original = platforms.signals

    class GreenSignals(type(original)):  # type: ignore[misc]
        def __setitem__(self, name: str, handler: Any) -> None:
            if callable(handler):
                if name == "SIGHUP" and getattr(handler, "__name__", "") == "restart_worker_sig_handler":
                    handler = _ignoring_arguments(restart)
                first = on_stop if name in STOP_SIGNALS else _nothing
                handler = _in_greenlet(handler, then, first)
            super().__setitem__(name, handler)

    platforms.signals = ours = GreenSignals()

    def undo() -> None:
        if platforms.signals is ours:
            platforms.signals = original

    return undo


def _nothing() -> None:
    pass


def _ignoring_arguments(function: Callable[[], None]) -> Callable[..., None]:
    return lambda *_: function()


def _in_greenlet(
    handler: Callable[..., Any], then: Callable[[], None], first: Callable[[], None] = _nothing
) -> Callable[..., Any]:
    def run(signum: int, frame: Any) -> None:
        try:
            handler(signum, frame)
        finally:
            then()

    def on_signal(signum: int, frame: Any) -> None:
        first()
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
        if held is not None and any(held is original for original in saved.get(source, {}).values()):
            stale.append(f"{module.__name__}.{name}")
    return stale


def close_steps_once() -> Callable[[], None]:
    """Have a step of the consumer, such as gossip, that has no connection any more be closed already.

    Celery closes it when the connection is lost and once more when the worker stops before there is
    another (celery/bootsteps.py 5.7, `ConsumerStep._close`). It then fails on `None.connection_errors`,
    and the worker ends with a traceback or status 1.
    """
    plain = bootsteps.ConsumerStep._close

    def close(step: Any, consumer: Any, cancel_consumers: bool = True) -> None:  # noqa: FBT001, FBT002  # Celery's
        if consumer.connection is None:
            step.consumers = None
        else:
            plain(step, consumer, cancel_consumers)

    bootsteps.ConsumerStep._close = close

    def undo() -> None:
        if bootsteps.ConsumerStep._close is close:
            bootsteps.ConsumerStep._close = plain

    return undo


def store_base_exceptions() -> Callable[[], None]:
    """Have results hold exceptions that are no `Exception`, such as `gevent.Timeout`.

    Before 5.7 Celery hands them to the serializer as they are (celery/backends/base.py 5.5 and 5.6,
    `Backend.encode_result`); that fails, and the task has no result.
    """
    plain = Backend.encode_result
    if "BaseException" in plain.__code__.co_names:
        return _nothing

    def encode_result(backend: Any, result: Any, state: str) -> Any:
        if state in backend.EXCEPTION_STATES and isinstance(result, BaseException):
            return backend.prepare_exception(result)
        return plain(backend, result, state)

    Backend.encode_result = encode_result

    def undo() -> None:
        if Backend.encode_result is encode_result:
            Backend.encode_result = plain

    return undo


def notice_frozen_broker(consumer: Any) -> None:
    """Have no answer of a Redis broker be waited for longer than `_SOCKET_TIMEOUT` seconds.

    By default it is, for ever (kombu/transport/redis.py 5.7, `socket_timeout = None`), by the
    greenlet that does everything else for the broker too. Only the consumer's connections are
    changed, for tasks and for events: a publisher that gives up and tries again could send a task
    twice.
    """
    silences: dict[str, Silence] = {}

    def bounded(make: Callable[..., Any]) -> Callable[..., Any]:
        def connect(heartbeat: float | None = None, **options: Any) -> Any:
            connection = make(heartbeat=heartbeat, **options)
            if connection.transport.driver_type == "redis":
                connection.transport_options.setdefault("socket_timeout", _SOCKET_TIMEOUT)
                silence = silences.setdefault(connection.as_uri(), Silence(consumer))
                no_second_silence(connection.transport, consumer.hub, silence)
            publish_once(connection, consumer)
            connection.close = _quiet(connection.close)
            return consumer.ensure_connected(connection)

        return connect

    def _quiet(close: Callable[[], None]) -> Callable[[], None]:
        # Celery ignores connection errors here (kombu/common.py 5.7, `ignore_errors`). Of a broker that
        # is away halfway through kombu makes others too, and each ends the worker.
        def close_quietly() -> None:
            try:
                close()
            except Exception as exc:
                _logger.debug("passed over while a connection is closed: %r", exc)

        return close_quietly

    consumer.connection_for_read = bounded(consumer.app.connection_for_read)
    consumer.connection_for_write = bounded(consumer.app.connection_for_write)


def publish_once(connection: Any, consumer: Any) -> None:
    """Have an event that could not be sent end the connection, instead of being sent again until it is.

    Heartbeats are sent by a timer of the loop, with kombu's `retry` and no limit (celery/worker/heartbeat.py
    5.7, `_send`; kombu/connection.py 5.7, `ensure`): while the broker is away the loop would not come
    round, so that the worker neither reconnects nor ends. The dispatcher keeps the event and sends it
    when the consumer has reconnected.
    """

    def ensure(_: Any, publish: Callable[..., Any], *_args: Any, **_options: Any) -> Callable[..., Any]:
        def once(*args: Any, **kwargs: Any) -> Any:
            try:
                return publish(*args, **kwargs)
            except connection.connection_errors as exc:
                # The dispatcher raises nothing (celery/events/dispatcher.py 5.7, `_publish`).
                consumer.hub.call_soon(_raise_lost, consumer, exc)
                raise

        return once

    connection.ensure = ensure


def _raise_lost(consumer: Any, cause: Exception) -> None:
    # One that stops reconnects no more, and its tasks still have acks to send.
    if consumer.blueprint.state == bootsteps.RUN:
        # What the consumer reconnects on, whatever transport the events take.
        raise ConnectionError(f"the broker does not answer: {cause!r}") from cause


def run_rate_limits_by_one_timer(consumer: Any) -> None:
    """Have the tasks that wait for one rate limit wait for one timer.

    Celery makes one for each (celery/worker/consumer/consumer.py 5.7, `_schedule_bucket_request`);
    all are due when one task may go, and the others are made anew: a thousand tasks at a hundred a
    second are a hundred thousand timers a second.
    """
    schedule = consumer._schedule_bucket_request
    call_after, clear_timer = consumer.timer.call_after, consumer.timer.clear
    waiting: dict[Any, Any] = {}

    def one_timer(bucket: Any) -> None:
        if bucket not in waiting or waiting[bucket].canceled:
            schedule(bucket)

    def due(bucket: Any) -> None:
        waiting.pop(bucket, None)
        schedule(bucket)

    def call_once(seconds: float, function: Any, args: Any = (), **options: Any) -> Any:
        if function != one_timer:
            return call_after(seconds, function, args, **options)
        entry = waiting[args[0]] = call_after(seconds, due, args, **options)
        return entry

    def clear() -> None:
        # Celery 5.5 empties it with each lost connection (celery/worker/consumer/consumer.py 5.5,
        # `Consumer.on_close`): what waited for an entry of it would wait for ever.
        waiting.clear()
        clear_timer()

    consumer._schedule_bucket_request = one_timer
    consumer.timer.call_after = call_once
    consumer.timer.clear = clear


class Silence:
    """What the consumer's connections to one Redis know of a command that had no answer."""

    __slots__ = ("_consumer", "_error", "_until")

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._error: Exception | None = None
        self._until = 0.0

    def forget(self) -> None:
        """Have the next command ask the broker: it is the first of a new connection.

        Switches: never.
        """
        self._error = None

    def ask(self, do: Callable[[], Any]) -> Any:
        """Return what `do()` does; for a while after a time-out raise that at once instead.

        A worker that stops sends several commands, one after the other, and would wait for each. Not
        for ever, since what runs meanwhile may go back to a broker that has come back.

        Switches: may.
        """
        from redis.exceptions import TimeoutError as RedisTimeoutError  # late: not every broker is Redis

        if self._lasts():
            raise RedisTimeoutError("the broker did not answer the command before") from self._error
        try:
            return do()
        except RedisTimeoutError as exc:
            if not self._lasts():  # or it is that of a connect inside
                self._error, self._until = exc, monotonic() + _SILENT
                # kombu and Celery ignore errors here and there, and the timers that are due still come.
                self._consumer.hub.call_soon(self._end_connection)
            raise

    def _lasts(self) -> bool:
        return self._error is not None and monotonic() < self._until

    def _end_connection(self) -> None:
        if self._error is not None:
            _raise_lost(self._consumer, self._error)


def no_second_silence(transport: Any, loop: Any, silence: Silence) -> None:
    """Have a Redis command that timed out fail at once, and those after it, on every channel.

    redis-py 8 tries again three times, after growing pauses and with a time-out each, and the
    consumer would stand still for minutes. A connection that was merely closed is opened again.
    What kombu asks every second, that bindings live on, it asks for ever of a dead connection: the
    first failure is raised in the loop.
    """
    from redis.backoff import NoBackoff
    from redis.exceptions import ConnectionError as RedisConnectionError
    from redis.retry import Retry

    class Once(Retry):
        def call_with_retry(self, do: Any, *args: Any, **kwargs: Any) -> Any:
            return silence.ask(lambda: super(Once, self).call_with_retry(do, *args, **kwargs))

    retry = Once(NoBackoff(), 1, supported_errors=(RedisConnectionError,))
    lost: list[Exception] = []

    class Impatient(transport.Channel):  # type: ignore[misc]  # kombu ships no types
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            silence.forget()
            super().__init__(*args, **kwargs)

        def _get_pool(self, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002  # kombu 5.3 to 5.7
            pool = super()._get_pool(asynchronous=asynchronous)
            # Not that of subscriptions: remote control comes back by redis-py's own retries.
            if not asynchronous and hasattr(pool, "set_retry"):
                pool.set_retry(retry)
            return pool

        def _delete(self, *args: Any, **options: Any) -> None:
            # Of a channel that closes, on the connection of its subscriptions.
            silence.ask(lambda: super(Impatient, self)._delete(*args, **options))

        def maybe_refresh_binding_expiry(self) -> None:  # kombu 5.7
            if lost:
                return
            try:
                super().maybe_refresh_binding_expiry()
            except self.connection_errors as exc:
                lost.append(exc)
                loop.call_soon(_raise_first, lost)

    transport.Channel = Impatient


def _raise_first(errors: list[Exception]) -> None:
    raise errors[0]


def share_backend(backend: Any) -> None:
    """Let all greenlets use `backend`, if it can take it.

    No results at all can, and Redis, given a pool that waits: redis-py's raises
    `MaxConnectionsError` when full. Not other backends, nor a Celery whose result consumer cannot
    be read from several greenlets (before 5.7).
    """
    if isinstance(backend, DisabledBackend) or _waits_for_connections(backend):
        backend.thread_safe = True


def _waits_for_connections(backend: Any) -> bool:
    try:
        from celery.backends.redis import RedisBackend, ResultConsumer, SentinelBackend
        from redis import BlockingConnectionPool
    except ImportError:
        return False
    fits = isinstance(backend, RedisBackend) and not isinstance(backend, SentinelBackend)
    if not (fits and hasattr(ResultConsumer, "_wait_for_pubsub") and hasattr(backend, "_ConnectionPool")):
        return False
    if backend._ConnectionPool is None:
        backend.connparams["max_connections"] = backend.max_connections or _RESULT_CONNECTIONS
        backend._ConnectionPool = functools.partial(BlockingConnectionPool, timeout=_LONGEST_WAIT)
    return True
