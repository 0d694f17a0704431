"""What is done inside the Redis server in one step: take messages and book them, or give them back.

A message is booked as kombu books it (a hash of `[message, exchange, routing key]` by delivery tag,
an index of tags by time), so that plain workers restore it; but under a tag of our own, straight to
the queue it came from. So the server need not decode it, a tag names one delivery and no other, and
a call whose answer was lost is found by its name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads

from greenkit.celery._redis_large import return_held

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["FETCH", "LARGE", "LEFT", "MOST", "MOST_BYTES", "Fetched", "booked_by", "give_back", "unsupported"]

# More at once would keep the other tasks waiting while Celery unpacks them.
MOST = 32
# Reached, the call ends, with the message that reached it: other clients of the server wait meanwhile.
MOST_BYTES = 256 * 1024
# A script copies a message five times while other clients wait: a larger one is moved (`_redis_large.py`).
LARGE = 64 * 1024
# In place of a delivery tag: the message was too large, or none was asked for.
LEFT = b"left"
# Seconds a call that was given up is remembered; what has not arrived by then does not.
_REMEMBERED = 3600

# KEYS: of this call, the hash of unacknowledged messages, its index, the lists in the order to look.
# ARGV: how many, how many bytes, the time now, how many neighbouring lists take turns, the call's name,
# above how many bytes a message is left where it is (0: take none at all); for each list how the
# booking of its messages ends.
# Returns (position of the list, message, delivery tag, "" when not booked) for each, flat; of a message
# that is left (position, "", "left"), the last.
FETCH = """
local most, room, width, large = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[4]), tonumber(ARGV[6])
local got, count, size = {}, 0, 0
if redis.call('EXISTS', KEYS[1]) == 1 then return got end
for first = 4, (large > 0 and #KEYS or 0), width do
  local dry = 0
  while dry < width and count < most and size < room do
    dry = 0
    for at = first, first + width - 1 do
      local item = count < most and size < room and redis.call('RPOP', KEYS[at])
      if item and #item > large then
        redis.call('RPUSH', KEYS[at], item)
        got[#got + 1] = at - 4
        got[#got + 1] = ''
        got[#got + 1] = 'left'
        return got
      elseif item then
        count, size = count + 1, size + #item
        local tag = ''
        if item:byte() == 123 and item:byte(-1) == 125 then
          tag = ARGV[5] .. '.' .. count
          redis.call('ZADD', KEYS[3], ARGV[3], tag)
          redis.call('HSET', KEYS[2], tag, '[' .. item .. ARGV[at + 3])
        end
        got[#got + 1] = at - 4
        got[#got + 1] = item
        got[#got + 1] = tag
      else
        dry = dry + 1
      end
    end
  end
end
if count == 0 then
  for at = 4, #KEYS do
    if redis.call('LLEN', KEYS[at]) > 0 then return {at - 4, '', 'left'} end
  end
end
return got
"""

# KEYS: the hash of unacknowledged messages, its index, the list of each. ARGV: tag and message of each.
# A tag that is not booked any more was given back before, by us or for its visibility timeout.
_GIVE_BACK = """
for at = 3, #KEYS do
  local tag = ARGV[2 * at - 5]
  if redis.call('HDEL', KEYS[1], tag) == 1 then
    redis.call('ZREM', KEYS[2], tag)
    redis.call('RPUSH', KEYS[at], ARGV[2 * at - 4])
  end
end
"""


class Fetched(dict[str, Any]):
    """Hold a decoded message that was booked by our script, and the queue it came from."""

    __slots__ = ("queue",)

    def __init__(self, message: Mapping[str, Any], queue: str) -> None:
        super().__init__(message)
        self.queue = queue


class _Lists:
    """Stand where kombu puts a message into lists, and note which."""

    def __init__(self) -> None:
        self.pushed: list[tuple[str, str]] = []

    def rpush(self, key: str, message: str) -> None:
        self.pushed.append((key, message))


def give_back(channel: Any, messages: Iterable[tuple[str, Fetched]]) -> None:
    """Put (delivery tag, message) back at the head of their lists, each that is still booked.

    Switches: may.
    """
    keys, arguments = [], []
    for tag, message in messages:
        # A new tag: this one may be asked for again, if our answer is lost.
        properties = {**message["properties"], "delivery_tag": str(uuid4())}
        lists = _Lists()
        channel._do_restore_message({**message, "properties": properties}, "", message.queue, lists)
        for key, text in lists.pushed:
            keys.append(key)
            arguments += [tag, text]
    prefix = channel.global_keyprefix  # kombu puts it before the first key only
    with channel.conn_or_acquire() as client:
        script = client.register_script(_GIVE_BACK)
        others = (prefix + key for key in (channel.unacked_index_key, *keys))
        script(keys=[channel.unacked_key, *others], args=arguments)


def booked_by(channel: Any, call: str) -> dict[str, Any]:
    """Return what a call booked whose answer is lost, by delivery tag; one yet to arrive takes nothing.

    Switches: may.
    """
    tags = [f"{call}.{number}" for number in range(1, MOST + 1)]
    with channel.qos.pipe_or_acquire() as pipe:
        pipe.set(call_key(call), 1, ex=_REMEMBERED)
        for tag in tags:
            pipe.hget(channel.unacked_key, tag)
        values = pipe.execute()[1:]
    return_held(channel, call)
    found: dict[str, Any] = {}
    for tag, value in zip(tags, values, strict=True):
        if value:
            message, _, queue = loads(bytes_to_str(value))
            found[tag] = Fetched(message, queue)
    return found


def call_key(call: str) -> str:
    """Return the key that says, if it exists, that the call was given up."""
    return f"greenkit.call.{call}"


def booking_end(queue: str) -> str:
    """Return what follows the message in the booking of one that came from `queue`."""
    return f', "", {dumps(queue)}]'


def unsupported(exc: Exception) -> bool:
    """Tell whether the server does not know or allow a command, from a refusal that passes."""
    text = str(exc).lower()
    return type(exc).__name__ == "NoPermissionError" or any(
        words in text for words in ("unknown command", "unknown subcommand", "not supported", "not allowed")
    )
