"""Fetching from Redis: as many messages as the window has room for, booked in the step that takes them.

kombu waits with BRPOP, which takes a message without booking it: an answer lost on the wire is a
task lost. Here nothing waits inside the server. When all lists are empty the server tells us of the
first message that comes (`CLIENT TRACKING`, Redis 6), whatever the number of queues and priorities;
a server that cannot is asked ten times a second. A large message comes alone (`_redis_large.py`).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from celery.utils.log import get_logger
from celery.worker import state
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads
from kombu.utils.scheduling import round_robin_cycle

from greenkit.celery._redis_large import return_held, return_stale, take
from greenkit.celery._redis_scripts import (
    FETCH,
    LARGE,
    LEFT,
    MOST,
    MOST_BYTES,
    Fetched,
    booking_end,
    call_key,
    unsupported,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from greenkit.celery._event_loop import GreenHub

__all__ = ["Fetch"]

_logger = get_logger(__name__)
# Seconds between two looks at empty lists: when the server tells of messages, and when it does not.
_TOLD, _UNTOLD = 1.0, 0.1
# After a large message, as many come one by one before the next batch: they seldom come alone.
_ALONE = 16
_ANY = 2**40
# With so many tasks waiting for a slot here, fewer free places than this are not worth a round trip.
_BACKLOG, _WORTHWHILE = 32, 24
# Seconds between two looks whether a call is answered; one that both have seen is late.
_ANSWER_CHECK = 5.0


class Fetch:
    """Ask for messages where kombu sends BRPOP.

    The question travels on the channel's own connection; the answer is read when the loop sees it.
    """

    def __init__(self, consumer: Any, channel: Any) -> None:
        self.consumer = consumer
        self.channel = channel
        self._name = uuid4().hex
        self._calls = 0
        self._call = ""
        self._script = ""
        self._asked: list[tuple[str, str]] = []  # key of the list, queue
        self._booked = ""
        # There may be a backlog; an empty answer costs one round trip.
        self._more, self._pushed = True, False
        self._alone, self._large = 1, LARGE  # nothing is known yet of what there is
        self._late = ""
        self._looks = self._closed = False
        self._followed: Any = None
        self._notices: _Notices | None = None
        self._kombus = channel._brpop_start, channel.qos.append
        channel._brpop_start = self._start
        channel._brpop_read = channel.handlers["BRPOP"] = self._read
        channel.qos.append = self._append
        self._restore_visible = channel.qos.restore_visible
        channel.qos.restore_visible = self._restore
        self._watch = consumer.hub.call_repeatedly(_ANSWER_CHECK, self._notice_silence)

    @property
    def waits(self) -> bool:
        """Tell whether a call of ours is not answered yet."""
        return bool(self._call)

    def close(self) -> str:
        """Ask nothing any more; return the name of the call that is not answered, or "".

        Switches: never.
        """
        self._closed = True
        self._watch.cancel()
        if self._notices is not None:
            self._notices.close()
        call, self._call = self._call, ""
        return call

    def _room(self) -> int:
        estimate = self.channel.qos.can_consume_max_estimate()
        room: int = MOST if estimate is None else estimate  # None: no window at all
        if self.consumer.app.conf.get("worker_disable_prefetch"):  # Celery 5.6
            # As celery/worker/consumer/tasks.py does for `can_consume`.
            limit = self.consumer.controller.max_concurrency or self.consumer.pool.num_processes
            room = min(room, limit - len(state.reserved_requests))
        return min(room, MOST)

    def _can_wait(self, room: int) -> bool:
        """Tell whether the worker has work enough to fetch a larger batch later.

        A task that ends turns the loop, which asks again. With a prefetch of 1, every free place is an
        idle slot: none waits, and nothing is held back.
        """
        return room < _WORTHWHILE and self.consumer.pool.statistics().waiting >= _BACKLOG

    def _start(self, timeout: float | None = None) -> None:
        if self._call:
            # kombu dropped the connection for being silent; what the call booked is the next one's.
            raise ConnectionError("the broker did not answer")
        channel = self.channel
        room = self._room()
        if self._closed or not self._more or room <= 0 or self._can_wait(room):
            return
        queues = channel._queue_cycle.consume(len(channel.active_queues))
        connection = channel.client.connection
        if not queues or not self._prepare(connection):
            return
        fair = type(channel._queue_cycle) is round_robin_cycle
        lists = [
            (channel._q_for_pri(queue, step), queue) for step in channel.priority_steps for queue in queues
        ]
        self._asked = lists
        self._calls += 1
        self._call = f"{self._name}.{self._calls}"
        self._pushed = False
        keys = [
            call_key(self._call),
            channel.unacked_key,
            channel.unacked_index_key,
            *(key for key, _ in lists),
        ]
        channel._in_poll = connection
        channel._brpop_sent_at = time.monotonic()
        connection.send_command(
            "EVALSHA", self._script, len(keys), *(channel.global_keyprefix + key for key in keys),
            room, MOST_BYTES, repr(time.time()), len(queues) if fair else 1, self._call,
            0 if self._alone else self._large, *(booking_end(queue) for _, queue in lists),
        )  # fmt: skip

    def _prepare(self, connection: Any) -> bool:
        """Load the script, and have this connection's empty lists watched; False without scripts."""
        if connection._sock is None:
            connection.connect()
        if not self._script and not self._load(connection):
            return False
        if self._followed is not connection._sock:
            self._followed = connection._sock
            self._follow(connection)
        return True

    def _load(self, connection: Any) -> bool:
        try:
            self._script = bytes_to_str(self._ask(connection, "SCRIPT", "LOAD", FETCH))
        except self.channel.ResponseError as exc:
            self._refused(exc)
        return bool(self._script)

    def _follow(self, connection: Any) -> None:
        try:
            if self._notices is None:
                self._notices = _Notices(self.channel, self.consumer.hub, self._on_push)
            self._ask(connection, "CLIENT", "TRACKING", "ON", "REDIRECT", self._notices.number)
        except self.channel.ResponseError as exc:
            if not unsupported(exc):
                raise
            _logger.info("the broker does not tell of new messages (%s); it is asked for them", exc)
            if self._notices is not None:
                self._notices.close()

    def _ask(self, connection: Any, *command: Any) -> Any:
        connection.send_command(*command)
        return self.channel.client.parse_response(connection, command[0])

    def _look(self) -> None:
        self._looks = False
        self._on_push()

    def _on_push(self) -> None:
        self._more = self._pushed = True

    def _read(self, **options: Any) -> bool:
        call, self._call = self._call, ""
        channel = self.channel
        try:
            answer = self._answer(call, **options)
        finally:
            channel._in_poll = None
            if hasattr(channel, "_flush_brpop_reauth"):  # kombu 5.7
                channel._flush_brpop_reauth()
        if not call and answer:  # of BRPOP
            queue = bytes_to_str(answer[0]).rsplit(channel.sep, 1)[0]
            return self._deliver([(queue, answer[1], "")])
        batch, left = self._booked_batch(answer), answer[-1:] == [LEFT]
        if left:
            if self._alone:
                batch = self._take(call, *self._asked[answer[-3]])
            else:
                self._alone = _ALONE
        elif not batch:
            self._large = LARGE
        self._more = bool(batch) or left or self._pushed or not self._script
        if not (self._more or self._looks):
            self._looks = True
            told = self._notices is not None and self._notices.open
            self.consumer.hub.call_later(_TOLD if told else _UNTOLD, self._look)
        return self._deliver(batch)

    def _booked_batch(self, answer: list[Any]) -> list[tuple[str, bytes, str]]:
        return [
            (self._asked[at][1], item, bytes_to_str(tag))
            for at, item, tag in zip(answer[::3], answer[1::3], answer[2::3], strict=True)
            if tag != LEFT
        ]

    def _take(self, call: str, source: str, queue: str) -> list[tuple[str, bytes, str]]:
        """Take one message, and book it from here."""
        self._call = call  # what fails halfway is put right on the next connection
        self._alone -= 1
        try:
            taken = take(self.channel, call, source, f"{call}.1", booking_end(queue))
        except self.channel.ResponseError as exc:
            if type(exc).__name__ != "OutOfMemoryError":
                raise
            return_held(self.channel, call)
            # Only a script may move what is there then, which is what makes room.
            self._alone, self._large = 0, _ANY
            taken = None
        self._call = ""
        if taken is None:
            return []
        if len(taken[0]) > LARGE:
            self._alone = _ALONE
        return [(queue, *taken)]

    def _notice_silence(self) -> None:
        """Raise when a call has had no answer since the look before: of a dead connection none will come."""
        if self._call and self._call == self._late:
            raise ConnectionError(f"the broker did not answer for {_ANSWER_CHECK:g} s and more")
        self._late = self._call

    def _restore(self, *args: Any, **kwargs: Any) -> None:
        if self._late and self._call == self._late:
            return  # the broker is silent, and asking it this would only make that known later
        return_stale(self.channel)
        self._restore_visible(*args, **kwargs)

    def _answer(self, call: str, **options: Any) -> Any:
        client = self.channel.client
        try:
            return client.parse_response(client.connection, "EVALSHA" if call else "BRPOP", **options) or []
        except self.channel.ResponseError as exc:
            if not call:
                raise
            self._refused(exc)
            return []
        except BaseException:
            self._call = call  # not answered
            client.connection.disconnect()
            raise

    def _refused(self, exc: Exception) -> None:
        self._script = ""
        # redis-py takes the code off the text. This one means that the server was restarted.
        if type(exc).__name__ == "NoScriptError":
            return
        if not unsupported(exc):
            raise exc  # a replica, a full memory, a disk that fails: that passes
        _logger.warning("the broker refuses the script that fetches in batches (%s); one by one", exc)
        self.channel._brpop_start = self._kombus[0]

    def _deliver(self, batch: list[tuple[str, bytes, str]]) -> bool:
        channel, queue = self.channel, ""
        raws = [_decoded(*booked) for booked in batch]
        for at, (queue, item, tag) in enumerate(batch):
            self._booked = tag
            try:
                channel.connection._deliver(raws[at], queue)
            except BaseException as exc:
                if isinstance(exc, Exception) and self._message(raws[at]) is None:
                    self._drop(queue, item, tag)
                    continue
                # The rest is booked: the channel gives it back when it closes.
                for message in filter(None, map(self._message, raws[at + 1 :])):
                    channel.qos._quick_append(message.delivery_tag, message)
                raise
        channel._queue_cycle.rotate(queue)
        if sum(len(item) for _, item, _ in batch) >= MOST_BYTES:
            self.consumer.hub.wake()  # tasks run before more of this size is held in memory
        return bool(batch)

    def _message(self, raw: Any) -> Any:
        try:
            return self.channel.Message(raw, channel=self.channel)
        except Exception:
            return None

    def _drop(self, queue: str, item: bytes, tag: str) -> None:
        # kombu's exception ends the worker, and the messages fetched with it would wait for the
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
        if len(message.body or b"") > LARGE:
            message._raw = None  # it goes back from its booking, and need not stay here while the task runs
        qos._quick_append(delivery_tag, message)


def _decoded(queue: str, item: bytes, tag: str) -> Any:
    try:
        raw = loads(bytes_to_str(item))
        if tag:
            raw = Fetched(raw, queue)
            raw["properties"]["delivery_tag"] = tag
    except Exception:
        return None
    return raw


def _of_protocol_3(option: str) -> bool:
    return option.startswith(("protocol", "parser_class", "maint_", "oss_cluster_maint_", "maintenance_"))


class _Notices:
    """Hear from the server when a list that was empty has a message.

    It remembers which lists a connection has looked at, and tells another connection, this one, once
    when the first of them changes.
    """

    def __init__(self, channel: Any, loop: GreenHub, on_push: Callable[[], None]) -> None:
        self._loop = loop
        self._on_push = on_push
        pool = channel.pool
        # Redis' older protocol: there the notice is an ordinary message, which the parser returns.
        # redis-py 8 refuses it together with its notices of maintenance.
        kept = {name: value for name, value in pool.connection_kwargs.items() if not _of_protocol_3(name)}
        self._connection = connection = pool.connection_class(**kept, protocol=2)
        self.open = True
        try:
            connection.connect()
            connection.send_command("CLIENT", "ID")
            self.number = connection.read_response()
            connection.send_command("SUBSCRIBE", "__redis__:invalidate")
            connection.read_response()
        except BaseException:
            connection.disconnect()
            raise
        self._socket = connection._sock
        loop.add_reader(self._socket, self._on_readable)

    def _on_readable(self) -> None:
        self._connection.read_response()  # raises when the server has gone, which the consumer mends
        while self._connection.can_read(timeout=0):
            self._connection.read_response()
        self._on_push()

    def close(self) -> None:
        """Hear nothing more; closing twice is fine."""
        if self.open:
            self.open = False
            self._loop.remove(self._socket)
            self._connection.disconnect()
