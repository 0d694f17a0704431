"""A large message: moved and booked as kombu does it, by commands, and lost or doubled by nothing in between.

A script copies what it handles about five times, in steps that keep the server's other clients waiting.
So a large message is moved to a list of its call's own, by a command that answers with it, and booked
from here; that list is named in an index, by which a live worker finds what a killed one left.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kombu.utils.encoding import bytes_to_str

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["return_held", "return_stale", "take"]

# Names what is held, by the time it was taken: the name of the call and of the list it came from.
_INDEX = "greenkit.held"
# Seconds in which a worker that lives has booked what it took, or has given its connection up.
_STALE = 60.0

# KEYS: the index; for each name the list that holds, and the list it came from. ARGV: the names.
_RETURN = """
for at = 2, #KEYS, 2 do
  local item = redis.call('LPOP', KEYS[at])
  while item do
    redis.call('RPUSH', KEYS[at + 1], item)
    item = redis.call('LPOP', KEYS[at])
  end
  redis.call('ZREM', KEYS[1], ARGV[at / 2])
end
"""


def take(channel: Any, call: str, source: str, tag: str, end: str) -> tuple[bytes, str] | None:
    """Take the next message of the list `source`, and book it under `tag`.

    Args:
        channel: kombu's.
        call: Names this call, and no other.
        source: The list.
        tag: The delivery tag.
        end: How its booking ends.

    Returns:
        The message and its tag, which is "" for what is no message and so not booked; None of an empty list.

    Raises:
        ConnectionError: It is not known what the server did; `return_held()` puts it right.

    Switches: may.
    """
    prefix, name = channel.global_keyprefix, f"{call} {source}"
    held = _held(name)
    with channel.conn_or_acquire() as client, client.pipeline() as pipe:
        pipe.zadd(_INDEX, {name: time.time()})
        pipe.rpoplpush(prefix + source, prefix + held)  # kombu puts the prefix before no key of this one
        item = pipe.execute()[1]
        if item is None:
            client.zrem(_INDEX, name)
            return None
        # From here on a list that was given back meanwhile, as one of a dead worker's, refuses the booking.
        with _losses_while_watching():
            pipe.watch(held)
            if pipe.llen(held) != 1:  # gone; or two, as redis-py says a command again whose answer was lost
                raise ConnectionError("a message that was taken is not held for this worker any more")
            pipe.multi()
            booked = item[:1] == b"{" and item[-1:] == b"}"
            if booked:
                pipe.zadd(channel.unacked_index_key, {tag: time.time()})
                pipe.hset(channel.unacked_key, tag, b"[" + item + end.encode())
            pipe.delete(held)
            pipe.zrem(_INDEX, name)
            pipe.execute()
    return item, tag if booked else ""


@contextmanager
def _losses_while_watching() -> Iterator[None]:
    """Raise a lost connection as what it is: of a connection that watches, redis-py says WatchError."""
    try:
        yield
    except Exception as exc:
        if type(exc).__name__ != "WatchError":
            raise
        raise ConnectionError(f"a message may be booked or not: {exc}") from exc


def return_held(channel: Any, call: str) -> None:
    """Put back what the call took and did not book.

    Switches: may.
    """
    _return(channel, lambda client: client.zrange(_INDEX, 0, -1), lambda name: name.startswith(f"{call} "))


def return_stale(channel: Any) -> None:
    """Put back what workers that are dead by now took and did not book.

    Switches: may.
    """
    until = time.time() - min(_STALE, channel.visibility_timeout)
    _return(channel, lambda client: client.zrange(_INDEX, "-inf", until, byscore=True))


def _return(
    channel: Any, find: Callable[[Any], Iterable[bytes]], wanted: Callable[[str], bool] = bool
) -> None:
    prefix = channel.global_keyprefix
    with channel.conn_or_acquire() as client:
        names = [name for name in map(bytes_to_str, find(client)) if wanted(name)]
        if names:
            others = (key for name in names for key in (prefix + _held(name), prefix + name.split(" ", 1)[1]))
            client.register_script(_RETURN)(keys=[_INDEX, *others], args=names)


def _held(name: str) -> str:
    return f"greenkit.held.{name.split(' ', 1)[0]}"
