"""Messages of a Redis broker, fetched and acknowledged in batches.

kombu fetches one message per BRPOP, books it as unacknowledged in a second round trip, and
acknowledges it in a third (kombu/transport/redis.py 5.7: `_brpop_start`, `QoS.append`, `QoS.ack`).
Between the first two a killed worker loses the message. Here one script takes as many as the
window has room for and books them in the same step; BRPOP remains for waiting on empty queues.
Keys and values stay those kombu writes, so other workers may share the queues and restore ours.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import gevent
from celery.bootsteps import RUN
from celery.utils.log import get_logger
from celery.worker import state
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads
from kombu.utils.scheduling import round_robin_cycle

if TYPE_CHECKING:
    from greenkit.celery._loop import GreenHub

__all__ = ["RedisLedger"]

_logger = get_logger(__name__)

# More at once would keep the other tasks waiting while Celery unpacks them.
_MOST = 32
_NEEDED = (
    "ack",
    "append",
    "reject",
    "restore_by_tag",
    "_remove_from_indices",
    "pipe_or_acquire",
    "_quick_ack",
)

# Seconds in which a worker that ends asks a broker that is away again, and between two times.
_LAST_WORD = 10.0
_PAUSE = 1.0

# KEYS: the hash of unacknowledged messages, its index by time, the lists in the order to look.
# ARGV: how many, the time now, how many neighbouring lists take turns.
# Returns (position of the list, message, delivery tag when booked or "") for each, flat.
_FETCH = """
local want, now, width = 3 * tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local got = {}
for first = 3, #KEYS, width do
  local dry = 0
  while dry < width and #got < want do
    dry = 0
    for at = first, first + width - 1 do
      local item = #got < want and redis.call('RPOP', KEYS[at])
      if item then
        local readable, tag, tail = pcall(function()
          local properties = cjson.decode(item).properties
          local info = properties.delivery_info
          return properties.delivery_tag,
            ', ' .. cjson.encode(info.exchange) .. ', ' .. cjson.encode(info.routing_key) .. ']'
        end)
        if not readable or type(tag) ~= 'string' then
          tag = ''
        else
          redis.call('ZADD', KEYS[2], now, tag)
          redis.call('HSET', KEYS[1], tag, '[' .. item .. tail)
        end
        got[#got + 1] = at - 3
        got[#got + 1] = item
        got[#got + 1] = tag
      else
        dry = dry + 1
      end
    end
  end
end
return got
"""


class RedisLedger:
    """Keep the account of a worker's messages over any number of connections.

    Redis takes an acknowledgement from anybody, so a task that runs while the connection breaks
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
        self._trouble: Exception | None = None
        self._give_back: Any = None

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
        self._settle(qos)
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
        Fetch(self.consumer, channel)
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
                self._adrift[delivery_tag] = self._running.pop(delivery_tag)
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
            while self.owed and self.channel is channel:  # again for what comes while execute() waits
                self._pay(channel.qos)
        except Exception as exc:
            # Raised by the next turn: here it would take the acks queued behind along.
            self._trouble = exc
            self.loop.wake()

    def _raise_trouble(self) -> None:
        trouble, self._trouble = self._trouble, None
        if trouble is not None:
            raise trouble

    def _pay(self, qos: Any) -> None:
        tags = self.owed[:]
        with qos.pipe_or_acquire() as pipe:
            for tag in tags:
                qos._remove_from_indices(tag, pipe)
            pipe.execute()
        del self.owed[: len(tags)]  # not all of it: more came while execute() waited

    # -- from one connection to the next -----------------------------------------

    def let_go(self) -> None:
        """Take over what the channel has in hand; say nothing on a connection that is dead.

        Switches: never.
        """
        channel, self.channel = self.channel, None
        if channel is None:
            return
        qos = channel.qos
        qos._flush()
        for request in self.consumer.pool.requests():
            tag = request.message.delivery_tag
            if tag in qos._delivered and not (request.acknowledged or self._is_cancelled(request)):
                self._running[tag] = qos._delivered.pop(tag)
        self._adrift.update(qos._delivered)
        qos._delivered.clear()
        # kombu would try once more to give them back when the process ends, to whoever has them by then.
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
        self.loop.run_soon_quietly()  # acks that nobody runs any more
        channel = self.channel
        if channel is not None and channel._in_poll:
            with suppress(Exception):  # such as Empty; what comes goes straight back
                channel._brpop_read()
        self.let_go()
        self._adrift.update(self._running)
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
            self.owed.clear()
            self._adrift.clear()

    def _in_debt(self) -> bool:
        return bool(self.owed or self._adrift)

    def _try_to_settle(self, channel: Any) -> Exception | None:
        """Settle on this channel, or on a new connection; return what went wrong."""
        try:
            if channel is not None:
                self._settle(channel.qos)
            else:
                with self.consumer.app.connection_for_read() as connection:
                    connection.connect()
                    self._settle(connection.default_channel.qos)
        except Exception as exc:
            return exc
        return None

    def _settle(self, qos: Any) -> None:
        """Pay what is owed and give back what is adrift, each once."""
        while self.owed:
            self._pay(qos)
        while self._adrift:  # not started, and the broker was not there to take them back
            tag = next(reversed(self._adrift))  # the last first: each goes to the head of its list
            qos.restore_by_tag(tag)
            self._adrift.pop(tag, None)


class Fetch:
    """Ask for as many messages as the window has room for, where kombu sends BRPOP.

    Both travel on the channel's own connection and are read when the loop sees an answer.
    """

    def __init__(self, consumer: Any, channel: Any) -> None:
        self.consumer = consumer
        self.channel = channel
        self._script = ""
        self._asked: list[str] = []
        self._booked = ""
        # There may be a backlog; an empty answer costs one round trip, and BRPOP takes over.
        self._more = True
        self._kombus = channel._brpop_start, channel.qos.append
        channel._brpop_start = self._start
        channel._brpop_read = channel.handlers["BRPOP"] = self._read
        channel.qos.append = self._append

    def _room(self) -> int:
        estimate = self.channel.qos.can_consume_max_estimate()
        room: int = _MOST if estimate is None else estimate  # None: no window at all
        if self.consumer.app.conf.get("worker_disable_prefetch"):  # Celery 5.6
            # As celery/worker/consumer/tasks.py does for `can_consume`.
            limit = self.consumer.controller.max_concurrency or self.consumer.pool.num_processes
            room = min(room, limit - len(state.reserved_requests))
        return min(room, _MOST)

    def _start(self, timeout: float | None = None) -> None:
        channel = self.channel
        queues = channel._queue_cycle.consume(len(channel.active_queues))
        room = self._room()
        if not (self._more and queues and room > 0):
            self._kombus[0](timeout)
            return
        fair = type(channel._queue_cycle) is round_robin_cycle
        keys = [channel.unacked_key, channel.unacked_index_key]
        keys += [channel._q_for_pri(queue, step) for step in channel.priority_steps for queue in queues]
        connection = channel.client.connection
        if not self._script and not self._load(connection):
            self._kombus[0](timeout)
            return
        channel._in_poll = connection
        channel._brpop_sent_at = time.monotonic()
        self._asked = [queue for _ in channel.priority_steps for queue in queues]
        connection.send_command(
            "EVALSHA", self._script, len(keys), *(channel.global_keyprefix + key for key in keys),
            room, repr(time.time()), len(queues) if fair else 1,
        )  # fmt: skip

    def _read(self, **options: Any) -> bool:
        asked, self._asked = self._asked, []
        channel = self.channel
        try:
            answer = self._answer("EVALSHA" if asked else "BRPOP", **options)
        finally:
            channel._in_poll = None
            if hasattr(channel, "_flush_brpop_reauth"):  # kombu 5.7
                channel._flush_brpop_reauth()
        self._more = bool(answer)
        if answer and not asked:
            queue = bytes_to_str(answer[0]).rsplit(channel.sep, 1)[0]
            return self._deliver([(queue, answer[1], "")])
        triples = zip(answer[::3], answer[1::3], answer[2::3], strict=True)
        return self._deliver([(asked[at], item, bytes_to_str(tag)) for at, item, tag in triples])

    def _answer(self, command: str, **options: Any) -> Any:
        client = self.channel.client
        try:
            return client.parse_response(client.connection, command, **options) or []
        except self.channel.connection_errors:
            client.connection.disconnect()
            raise
        except self.channel.ResponseError as exc:
            if command == "BRPOP":
                raise
            self._refused(exc)
            return []

    def _load(self, connection: Any) -> bool:
        connection.send_command("SCRIPT", "LOAD", _FETCH)
        try:
            self._script = bytes_to_str(self.channel.client.parse_response(connection, "SCRIPT"))
        except self.channel.ResponseError as exc:
            self._refused(exc)
        return bool(self._script)

    def _refused(self, exc: Exception) -> None:
        self._script = ""
        if "NOSCRIPT" not in str(exc):  # that one only means that the server was restarted
            _logger.warning("the broker refuses the script that fetches in batches (%s); one by one", exc)
            self.channel._brpop_start = self._kombus[0]

    def _deliver(self, batch: list[tuple[str, bytes, str]]) -> bool:
        channel, queue = self.channel, ""
        raws = [_decoded(item) for _, item, _ in batch]
        for at, (queue, item, tag) in enumerate(batch):
            self._booked = tag
            try:
                channel.connection._deliver(raws[at], queue)
            except BaseException as exc:
                if isinstance(exc, Exception) and self._message(raws[at]) is None:
                    self._drop(queue, item, tag)
                    continue
                # The rest is booked, so somebody must give it back.
                for message in filter(None, map(self._message, raws[at + 1 :])):
                    channel.qos._quick_append(message.delivery_tag, message)
                raise
        channel._queue_cycle.rotate(queue)
        return bool(batch)

    def _message(self, raw: Any) -> Any:
        try:
            return self.channel.Message(raw, channel=self.channel)
        except Exception:
            return None

    def _drop(self, queue: str, item: bytes, tag: str) -> None:
        # kombu's exception ends the worker, and whoever was fetched along would wait for the
        # visibility timeout.
        _logger.critical("%r in queue %s is no message; it is thrown away", item[:1000], queue)
        if tag:
            self.channel.qos.ack(tag)

    def _append(self, message: Any, delivery_tag: str) -> None:
        if delivery_tag != self._booked:
            self._kombus[1](message, delivery_tag)
            return
        self._booked = ""
        qos = self.channel.qos
        if qos._dirty:
            qos._flush()
        qos._quick_append(delivery_tag, message)


def _decoded(item: bytes) -> Any:
    try:
        return loads(bytes_to_str(item))
    except Exception:
        return None
