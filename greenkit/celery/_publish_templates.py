"""One message as Celery, its router, serializer and channel make it, and copies of it for other calls.

The message is caught where the channel would send it, cut at what differs from call to call, and the
pieces are joined around each call's own values. The first call is rendered and compared with what
Celery made: where they differ there is no template, and Celery makes every message.
"""

from __future__ import annotations

import json
import re
import time
from contextlib import contextmanager, suppress
from struct import pack
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from celery.utils.saferepr import saferepr
from kombu.serialization import dumps as serialize
from kombu.utils.json import dumps as kombu_json
from kombu.utils.uuid import uuid

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from celery.app.task import Task


__all__ = ["Call", "Template", "template_of"]

_PLAIN_CALL = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
_BYTES_AT_ONCE = 1 << 20  # of one LPUSH, which Redis handles before another client's command


class Call(NamedTuple):
    """Name one message: `id`, and the arguments of the task."""

    id: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]


class Template(Protocol):
    """Render and send messages that differ in their call alone."""

    size: int
    """Messages in one write."""

    def render(self, call: Call, place: int) -> bytes:
        """Return the message of `call`, the `place`th of its batch, as it goes to the broker."""

    def write(self, payloads: list[bytes], timeout: float) -> None:
        """Send them, and wait until the broker has them.

        Switches: may.
        """

    def outcome(self, error: Exception, payloads: list[bytes]) -> tuple[set[int], set[int]]:
        """Return the places of the payloads that arrived in the `write()` that raised, and may have."""

    def close(self) -> None:
        """Give back what the template holds of the connection."""


def template_of(producer: Any, task: Task, call: Call, options: dict[str, Any]) -> Template | None:
    """Return the template of messages such as the one `task.apply_async()` makes of `call`.

    The queue is declared, the result backend is told of the call, and nothing is sent.

    Returns:
        None when this broker, route or message has to go Celery's way.

    Switches: may.
    """
    channel = producer.channel
    module = type(channel).__module__
    if module not in {"kombu.transport.redis", "kombu.transport.pyamqp"}:
        return None
    # No retry: it would go to another channel, where no list catches the message.
    options = {**options, "retry": False, "add_to_parent": False}
    with _caught(channel, "_put" if module.endswith("redis") else "basic_publish") as caught:
        if "group_id" in options:
            options["group_index"] = 0
        task.apply_async(call.args, call.kwargs, task_id=call.id, producer=producer, **options)
    if len(caught) != 1:  # an exchange that copies to several queues, or knows none
        return None
    make = _redis_template if module.endswith("redis") else _amqp_template
    return make(channel, _Fields(task, call, options), *caught[0])


@contextmanager
def _caught(channel: Any, method: str) -> Iterator[list[tuple[tuple[Any, ...], dict[str, Any]]]]:
    """Have `channel` hand its messages to a list instead of the broker.

    The channel belongs to a producer out of the pool, which no other greenlet uses meanwhile.
    """
    caught: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    before = vars(channel).get(method)
    setattr(channel, method, lambda *args, **kwargs: caught.append((args, kwargs)))
    try:
        yield caught
    finally:
        if before is None:
            delattr(channel, method)
        else:
            setattr(channel, method, before)


class _Fields:
    """Say what a call writes into the fields of its message."""

    def __init__(self, task: Task, call: Call, options: dict[str, Any]) -> None:
        amqp = task.app.amqp
        self.call = call
        self._sizes = (amqp.argsrepr_maxsize, amqp.kwargsrepr_maxsize)
        self._levels = getattr(task.app.conf, "task_repr_maxlevels", None)
        self._serializer = options.get("serializer") or task.serializer or task.app.conf.task_serializer
        self._given = options.keys() & {"argsrepr", "kwargsrepr"}
        self._in_group = "group_id" in options
        self.tokens = {name: uuid() for name in ("id", "args", "kwargs", "place")}

    def mark(self, headers: dict[str, Any]) -> dict[str, Any]:
        """Return the headers with tokens where calls differ."""
        marked = {**headers, "id": self.tokens["id"]}
        if headers["root_id"] == headers["id"]:
            marked["root_id"] = self.tokens["id"]
        for header, name in (("argsrepr", "args"), ("kwargsrepr", "kwargs")):
            if header not in self._given:
                marked[header] = self.tokens[name]
        if self._in_group:
            marked["group_index"] = self.tokens["place"]
        return marked

    def values(self, call: Call, place: int) -> dict[str, Any]:
        """Return what stands in place of each token."""
        more = {} if self._levels is None else {"maxlevels": self._levels}
        args, kwargs = call.args or (), call.kwargs or {}
        return {
            self.tokens["id"]: call.id,
            self.tokens["args"]: saferepr(args, self._sizes[0], **more),
            self.tokens["kwargs"]: saferepr(kwargs, self._sizes[1], **more),
            self.tokens["place"]: place,
        }

    def body(self, call: Call) -> Any:
        """Return the serialized arguments."""
        return serialize((call.args or (), call.kwargs or {}, _PLAIN_CALL), self._serializer)[2]


def _redis_template(channel: Any, fields: _Fields, args: tuple[Any, ...], kwargs: Any) -> Template | None:
    queue, message = args
    if "_publish_batch" in kwargs or queue in (getattr(channel, "_expires", None) or ()):
        return None  # kombu sends a PEXPIRE with each message
    template = _RedisTemplate(channel, queue, message, fields)
    tag = message["properties"]["delivery_tag"]
    return template if template.text(fields.call, 0, tag) == kombu_json(message) else None


class _RedisTemplate:
    """Write messages as text into the list of their queue and priority."""

    size = 500

    def __init__(self, channel: Any, queue: str, message: dict[str, Any], fields: _Fields) -> None:
        self._channel = channel
        self._fields = fields
        self._key = channel._q_for_pri(queue, channel._get_message_priority(message, reverse=False))
        self._tag, self._body = uuid(), uuid()
        properties = message["properties"]
        marked = {
            **message,
            "headers": fields.mark(message["headers"]),
            "properties": {
                **properties,
                "correlation_id": fields.tokens["id"],
                "delivery_tag": self._tag,
            },
            "body": self._body,
        }
        tokens = "|".join((*fields.tokens.values(), self._tag, self._body))
        self._pieces = re.split(f'"({tokens})"', kombu_json(marked))
        self._encoding = properties["body_encoding"]
        self._arrived = 0

    def text(self, call: Call, place: int, tag: str) -> str:
        """Return the message of `call`."""
        values = self._fields.values(call, place)
        values[self._tag] = tag
        values[self._body] = self._channel.encode_body(self._fields.body(call), self._encoding)[0]
        # Every second piece is a token.
        return "".join(
            json.dumps(values[piece]) if number % 2 else piece for number, piece in enumerate(self._pieces)
        )

    def render(self, call: Call, place: int) -> bytes:
        return self.text(call, place, self._channel._next_delivery_tag()).encode()

    def write(self, payloads: list[bytes], timeout: float) -> None:
        self._arrived = 0
        with self._channel.conn_or_acquire() as client:
            while self._arrived < len(payloads):
                end, weight = self._arrived, 0
                while end < len(payloads) and (end == self._arrived or weight < _BYTES_AT_ONCE):
                    weight += len(payloads[end])
                    end += 1
                client.lpush(self._key, *payloads[self._arrived : end])
                self._arrived = end

    def outcome(self, error: Exception, payloads: list[bytes]) -> tuple[set[int], set[int]]:
        refused = isinstance(error, self._channel.ResponseError)  # Redis answered, and wrote nothing
        rest = set() if refused else set(range(self._arrived, len(payloads)))
        return set(range(self._arrived)), rest

    def close(self) -> None:
        """Do nothing: the connection is the channel's."""


def _amqp_template(channel: Any, fields: _Fields, args: tuple[Any, ...], kwargs: Any) -> Template | None:
    connection = channel.connection
    if not (connection.server_properties or {}).get("capabilities", {}).get("publisher_confirms"):
        return None
    (message,) = args
    template = _AmqpTemplate(connection, message, fields, kwargs)
    if template.content(fields.call, 0) == (message._serialize_properties(), _bytes(message.body)):
        return template
    template.close()
    return None


class _AmqpTemplate:
    """Write messages as AMQP frames, on a channel of its own that the broker confirms them on."""

    size = 200

    def __init__(self, connection: Any, message: Any, fields: _Fields, where: dict[str, Any]) -> None:
        from amqp.serialization import dumps

        self._connection = connection
        self._fields = fields
        self._confirmed: set[int] = set()
        self._refused: set[int] = set()
        self._first = 1  # the number the broker gives the next message
        headers = message.properties["application_headers"]
        table = dumps("F", [fields.mark(headers)])
        properties = {**message.properties, "application_headers": fields.mark(headers)}
        properties["correlation_id"] = fields.tokens["id"]
        before, message.properties = message.properties, properties
        try:
            whole = message._serialize_properties()
        finally:
            message.properties = before
        self._head, tail = whole.split(table)
        self._tail = tail.split(fields.tokens["id"].encode())
        # A string in a table: its kind, its length, itself.
        tokens = b"|".join(token.encode() for token in fields.tokens.values())
        self._pieces = re.split(b"S" + re.escape(pack(">I", 36)) + b"(" + tokens + b")", table[4:])
        arguments = dumps(
            "Bssbb",
            [0, where["exchange"], where["routing_key"], where["mandatory"], where["immediate"]],
        )
        self._channel = connection.channel()
        self._channel.confirm_select()
        self._channel.events["basic_ack"].add(self._on_ack)
        self._channel.events["basic_nack"].add(self._on_nack)
        self._method = self._frame(1, pack(">HH", 60, 40) + arguments)

    def content(self, call: Call, place: int) -> tuple[bytes, bytes]:
        """Return the properties and the body of `call`'s message."""
        values = self._fields.values(call, place)
        table = b"".join(
            _item(values[piece.decode()]) if number % 2 else piece
            for number, piece in enumerate(self._pieces)
        )
        tail = call.id.encode().join(self._tail)
        return b"".join((self._head, pack(">I", len(table)), table, tail)), _bytes(self._fields.body(call))

    def render(self, call: Call, place: int) -> bytes:
        properties, body = self.content(call, place)
        most = self._connection.frame_max - 8
        frames = [self._method, self._frame(2, pack(">HHQ", 60, 0, len(body)) + properties)]
        frames += [self._frame(3, body[start : start + most]) for start in range(0, len(body), most)]
        return b"".join(frames)

    def _frame(self, kind: int, payload: bytes) -> bytes:
        return pack(">BHI", kind, self._channel.channel_id, len(payload)) + payload + b"\xce"

    def write(self, payloads: list[bytes], timeout: float) -> None:
        self._confirmed.clear()
        self._refused.clear()
        try:
            self._connection.transport.write(b"".join(payloads))
        except BaseException:
            self._connection.collect()  # half a frame may stand in it
            raise
        self._wait(len(payloads), timeout)
        self._first += len(payloads)

    def _wait(self, number: int, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while len(self._confirmed) + len(self._refused) < number:
            left = deadline - time.monotonic()
            try:
                if left <= 0:
                    raise TimeoutError
                self._connection.drain_events(timeout=left)
            except TimeoutError as error:
                msg = (
                    f"RabbitMQ confirmed {len(self._confirmed)} of {number} messages in {timeout:g} s; "
                    f"it holds publishers back when memory or disk run out"
                )
                raise TimeoutError(msg) from error
        if self._refused:
            msg = f"RabbitMQ refused {len(self._refused)} of {number} messages: a queue is full, or gone"
            raise ConnectionError(msg)

    def _on_ack(self, tag: int, multiple: Any) -> None:
        self._note(self._confirmed, tag, multiple)

    def _on_nack(self, tag: int, multiple: Any) -> None:
        self._note(self._refused, tag, multiple)

    def _note(self, which: set[int], tag: int, multiple: Any) -> None:
        last = tag - self._first
        places = range(last + 1) if multiple else (last,)
        which.update(place for place in places if place not in self._confirmed | self._refused)

    def outcome(self, error: Exception, payloads: list[bytes]) -> tuple[set[int], set[int]]:
        rest = set(range(len(payloads))) - self._confirmed - self._refused
        return self._confirmed, rest

    def close(self) -> None:
        with suppress(Exception):  # a connection that broke has no channels to close
            self._channel.close()


def _item(value: str | int) -> bytes:
    """Return a value of an AMQP table, with its kind."""
    if isinstance(value, int):
        return pack(">ci", b"I", value)
    raw = value.encode()
    return pack(">cI", b"S", len(raw)) + raw


def _bytes(body: str | bytes) -> bytes:
    return body.encode() if isinstance(body, str) else body
