"""The account of the messages of a Redis broker, over any number of connections.

kombu fetches one message per BRPOP, books it as unacknowledged in a second round trip, and
acknowledges it in a third (kombu/transport/redis.py 5.7: `_brpop_start`, `QoS.append`, `QoS.ack`).
Between the first two a killed worker loses the message. Here they are fetched and booked in one step
(`_redis_fetch.py`) and acknowledged in batches, and what a connection left open is done on the next.
"""

from __future__ import annotations

from contextlib import suppress
from inspect import Parameter, signature
from itertools import islice
from typing import TYPE_CHECKING, Any

import gevent
from celery.bootsteps import RUN
from celery.utils.log import get_logger

from greenkit.celery._redis_fetch import Fetch
from greenkit.celery._redis_scripts import MOST, Fetched, booked_by, give_back

if TYPE_CHECKING:
    from greenkit.celery._event_loop import GreenHub

__all__ = ["RedisLedger"]

_logger = get_logger(__name__)

_NEEDED = (
    "ack",
    "append",
    "reject",
    "restore_by_tag",
    "pipe_or_acquire",
    "_quick_ack",
)

# Seconds in which a worker that ends asks a broker that is away again, and between two times.
_LAST_WORD = 10.0
_PAUSE = 1.0


class RedisLedger:
    """Keep the account of a worker's messages over any number of connections.

    Redis takes an acknowledgement on any connection, so a task that runs while the connection breaks
    is not given back: its message stays booked, and its ack is paid on the next connection.

    Args:
        consumer: Celery's consumer, which makes a channel after each reconnect.
        loop: Runs what is sent, in the greenlet that owns the channel.
    """

    def __init__(self, consumer: Any, loop: GreenHub) -> None:
        self.consumer = consumer
        self.loop = loop
        self.channel: Any = None
        self.owed: list[str] = []
        self._running: dict[str, Any] = {}
        self._adrift: dict[str, Any] = {}
        self._unanswered: list[str] = []
        self._fetch: Fetch | None = None
        self._trouble: Exception | None = None
        self._give_back: Any = None
        self._connection: Any = None  # for acknowledgements alone, out of the channel's pool

    def attach(self, channel: Any) -> bool:
        """Take over a new channel's bookkeeping, before its first message.

        Returns:
            Whether this kombu's channel has the parts that are exchanged.

        Switches: may.
        """
        qos = channel.qos
        if missing := [name for name in _NEEDED if not hasattr(qos, name)]:
            _logger.warning("this kombu's Redis QoS has no %s; acks go out one by one", ", ".join(missing))
            return False
        self._close_connection()  # of the channel before, whose pool was another
        self._settle(channel)
        self.channel = channel
        self._trouble = None
        self.loop.on_tick.add(self._raise_trouble)
        self._give_back = qos.reject
        qos.ack, qos.reject, qos.restore_unacked_once = self.ack, self.reject, self._restore
        for tag, message in self._running.items():
            qos._quick_append(tag, message)  # they have a place in the window until they end
        self._running.clear()
        if self.owed:
            self.loop.call_soon(self.flush)
        self._fetch = Fetch(self.consumer, channel)
        return True

    def ack(self, delivery_tag: str) -> None:
        """Free the window's place at once and tell the broker with the next batch.

        Switches: never.
        """
        if not self.owed:
            self.loop.call_soon(self.flush)
        self.owed.append(delivery_tag)
        for kept in (self._running, self._adrift):
            kept.pop(delivery_tag, None)
        if self.channel is not None:
            self.channel.qos._quick_ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - kombu's
        """Give a message back, or drop it, which to Redis is the same as an ack.

        Switches: may.
        """
        if not requeue:
            self.ack(delivery_tag)
        elif self.channel is None:
            if delivery_tag in self._running:
                self._adrift[delivery_tag] = _content(self._running.pop(delivery_tag))
        else:
            self._give_back(delivery_tag, requeue=True)

    def flush(self) -> None:
        """Send what is owed; without a connection the next one does.

        Switches: may.
        """
        channel = self.channel
        if channel is None:
            return
        try:
            while self.owed and self.channel is channel:  # again for what comes while _pay() waits
                self._pay(channel)
        except Exception as exc:
            # Raised by the next turn: here it would take the acks queued behind along.
            self._trouble = exc
            self.loop.wake()

    def _raise_trouble(self) -> None:
        trouble, self._trouble = self._trouble, None
        if trouble is not None:
            raise trouble

    def _pay(self, channel: Any) -> None:
        """Pay on a kept connection: a client and a pipeline for each batch cost more than the acks."""
        connection = self._connection
        if connection is None:
            connection = self._connection = _taken_from(channel.pool)
        tags = self.owed[:]
        prefix = channel.global_keyprefix
        packed = connection.pack_commands(
            [
                ("MULTI",),
                ("ZREM", prefix + channel.unacked_index_key, *tags),
                ("HDEL", prefix + channel.unacked_key, *tags),
                ("EXEC",),
            ]
        )
        try:
            _ask(connection, packed)
        except channel.connection_errors:
            # A firewall may have dropped it for being idle. To acknowledge twice is the same as once.
            _ask(connection, packed)
        del self.owed[: len(tags)]  # not all of it: more came while the answer was waited for

    def _close_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()  # and not back into the pool, which ends with the channel

    # -- from one connection to the next -----------------------------------------

    def let_go(self) -> None:
        """Take over what the channel has in hand; say nothing on a connection that is dead.

        Switches: never.
        """
        channel, self.channel = self.channel, None
        if channel is None:
            return
        self._close_connection()
        qos = channel.qos
        qos._flush()
        for request in self.consumer.pool.requests():
            tag = request.message.delivery_tag
            if tag in qos._delivered and not (request.acknowledged or self._is_cancelled(request)):
                self._running[tag] = qos._delivered.pop(tag)
        self._adrift.update((tag, _content(message)) for tag, message in qos._delivered.items())
        qos._delivered.clear()
        fetch, self._fetch = self._fetch, None
        if fetch is not None and (call := fetch.close()):
            self._unanswered.append(call)
        # kombu would try once more to give them back when the process ends; another worker has them by then.
        qos._on_collect.cancel()
        # kombu reads the answer while it closes, and delivers what is in it.
        channel._in_poll = None
        if channel.connection is not None:
            channel.connection.cycle.discard(channel)  # nor does it fetch any more

    def _is_cancelled(self, request: Any) -> bool:
        conf = self.consumer.app.conf
        return bool(conf.worker_cancel_long_running_tasks_on_connection_loss and request.task.acks_late)

    def _restore(self, stderr: Any = None) -> None:
        """Stand where kombu gives back what a closing channel has not acknowledged; raise nothing."""
        if self.consumer.blueprint.state == RUN:
            self.let_go()
        else:
            self.close()

    def close(self) -> None:
        """Pay and give back what there is, at the end of the worker.

        The broker may be away just now, or refuse: it is asked again for `_LAST_WORD` seconds.

        Switches: may.
        """
        self.loop.run_soon_quietly()  # acks that the loop runs no more
        channel = self.channel
        if channel is not None and channel._in_poll and not (self._fetch and self._fetch.waits):
            with suppress(Exception):  # such as Empty; what comes goes straight back
                channel._brpop_read()
        self.let_go()
        self._adrift.update((tag, _content(message)) for tag, message in self._running.items())
        self._running.clear()
        why: object = "no answer"
        with gevent.Timeout(_LAST_WORD, False):
            while self._in_debt() and (why := self._try_to_settle(channel)) is not None:
                channel = None
                gevent.sleep(_PAUSE)
        if self._in_debt():
            _logger.warning(
                "the broker takes nothing (%s): after its visibility timeout it gives out again %d messages, "
                "and %d whose tasks have ended", why, len(self._adrift), len(self.owed),
            )  # fmt: skip
            for left in (self.owed, self._adrift, self._unanswered):
                left.clear()

    def _in_debt(self) -> bool:
        return bool(self.owed or self._adrift or self._unanswered)

    def _try_to_settle(self, channel: Any) -> Exception | None:
        """Settle on this channel, or on a new connection; return what went wrong."""
        try:
            if channel is not None:
                self._settle(channel)
            else:
                with self.consumer.app.connection_for_read() as connection:
                    connection.connect()
                    self._settle(connection.default_channel)
        except Exception as exc:
            return exc
        finally:
            self._close_connection()
        return None

    def _settle(self, channel: Any) -> None:
        """Pay what is owed and give back what no task here has, each once."""
        while self.owed:
            self._pay(channel)
        while self._unanswered:
            self._adrift.update(booked_by(channel, self._unanswered[-1]))
            self._unanswered.pop()
        while self._adrift:
            # The last first: each goes to the head of its list.
            latest = reversed(self._adrift.items())
            batch = [(tag, message) for tag, message in islice(latest, MOST) if isinstance(message, Fetched)]
            tags = [tag for tag, _ in batch]
            if batch:
                give_back(channel, batch)
            else:
                tags = [next(reversed(self._adrift))]
                channel.qos.restore_by_tag(tags[0])
            for tag in tags:
                self._adrift.pop(tag, None)


def _taken_from(pool: Any) -> Any:
    """Take a connection; redis-py before 5.3, which Celery 5.5 asks for, requires the name of a command."""
    parameters = signature(pool.get_connection).parameters.values()
    required = any(
        parameter.default is Parameter.empty and parameter.kind is Parameter.POSITIONAL_OR_KEYWORD
        for parameter in parameters
    )
    return pool.get_connection("MULTI") if required else pool.get_connection()


def _ask(connection: Any, transaction: Any) -> None:
    try:
        connection.send_packed_command(transaction, check_health=False)  # connects, where it has to
        for _ in range(4):
            connection.read_response()
    except BaseException:
        connection.disconnect()  # answers may be left in it
        raise


def _content(message: Any) -> Any:
    """Return what kombu made the message of."""
    return getattr(message, "_raw", None)
