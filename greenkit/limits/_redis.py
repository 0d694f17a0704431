"""Carry requests to Redis or Valkey: one script, one hash per limiter, one connection per process."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gevent import monkey

from greenkit.errors import ConfigError
from greenkit.limits._protocol import RecordError, Reply, checked
from greenkit.limits._sync import masked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from greenkit.limits._protocol import Request

__all__ = ["RedisWire", "client_for"]

# Seconds. redis-py's own settings wait for half a minute on a frozen server, and try again ten times.
_TIMEOUT = 0.2
# Where a hub waits, the time-out is that of `Sync`, which knows when the hub stood still. This is a backstop.
_PATCHED_TIMEOUT = 2.0
_SCRIPT = Path(__file__).with_name("exchange.lua").read_text(encoding="utf-8")
_SHA = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()


def client_for(url: str) -> Any:
    """Return a client that knows in time that its server does not answer.

    Raises:
        ConfigError: The package is missing, or this is no address of a Redis server.
    """
    try:
        import redis  # late: an extra, needed only by who shares through it
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError:
        msg = f'share={masked(url)!r} needs the redis package: pip install "greenkit[redis]"'
        raise ConfigError(msg) from None
    timeout = _PATCHED_TIMEOUT if monkey.is_module_patched("socket") else _TIMEOUT
    try:
        return redis.Redis.from_url(
            url,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            # Once more, on a new connection: the old one may be of a server that has restarted since.
            retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
            max_connections=2,
        )
    except ValueError:  # its text may be a piece of a password that was not escaped
        msg = (
            f"share={masked(url)!r} is no address of a Redis server, like redis://:password@host:6379/0; in "
            'a password write "/" as %2F, "#" as %23, "?" as %3F, "@" as %40, ":" as %3A'
        )
        raise ConfigError(msg) from None


class RedisWire:
    """Run the script for each record; works on one server, on a cluster, and behind Sentinel.

    Args:
        client: Of redis-py: `Redis`, `RedisCluster`, or what `Sentinel.master_for()` gives.
        own: It was made here, and may be closed here.
    """

    __slots__ = ("_client", "_own", "_pipelines")

    def __init__(self, client: Any, *, own: bool) -> None:
        self._client = client
        self._own = own
        # A cluster's pipelines run no scripts.
        self._pipelines = not hasattr(client, "get_node_from_key")

    def ask(self, asked: Sequence[tuple[str, Request]], /) -> list[Reply | RecordError]:
        """Return the replies, or what is wrong with one record.

        Raises:
            redis.RedisError: The server did not answer in time, or refused.
        """
        calls = [(1, _key(record), *request.arguments()) for record, request in asked]
        if len(calls) == 1 or not self._pipelines:
            answers = [self._run_script(call) for call in calls]
        else:
            answers = self._many(calls)
        return [_reply(answer, request) for answer, (_, request) in zip(answers, asked, strict=True)]

    def close(self) -> None:
        """Give the connection up, which may hold half an answer; the next request makes a new one."""
        if self._own:
            self._client.close()
        pool = getattr(self._client, "connection_pool", None)
        if pool is not None:
            pool.disconnect(inuse_connections=self._own)

    def abort(self) -> None:
        """Have `ask()`, which another native thread is in, fail; a client that was given is its owner's."""
        if self._own:
            self._client.connection_pool.disconnect(inuse_connections=True)

    def _run_script(self, call: tuple[Any, ...]) -> Any:
        try:
            try:
                return self._client.evalsha(_SHA, *call)
            except Exception as error:
                if not _unknown(error):
                    raise
                return self._client.eval(_SCRIPT, *call)  # which makes it known
        except Exception as error:
            return _of_the_record(error)

    def _many(self, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        with self._client.pipeline(transaction=False) as pipe:
            for call in calls:
                pipe.evalsha(_SHA, *call)
            answers: list[Any] = pipe.execute(raise_on_error=False)
        for place, answer in enumerate(answers):
            if isinstance(answer, Exception):
                known = not _unknown(answer)
                answers[place] = _of_the_record(answer) if known else self._run_script(calls[place])
        return answers


def _unknown(error: Exception) -> bool:
    """Tell whether the server does not know the script: it is new, or was told to forget."""
    return type(error).__name__ == "NoScriptError"


def _of_the_record(error: Exception) -> RecordError:
    """Return what is wrong with one record; whatever else `error` says is raised."""
    text = str(error)
    if not any(word in text for word in ("GREENKIT", "WRONGTYPE")):
        raise error
    return RecordError(text)


def _key(record: str) -> str:
    # In braces, so that a cluster keeps whatever may come to belong to it in one place.
    return f"greenkit:limit:{{{record}}}"


def _reply(answer: Any, request: Request) -> Reply | RecordError:
    if isinstance(answer, RecordError):
        return answer
    dims = len(request.names)
    try:
        numbers = [float(number) for number in answer]
        count, now, paused, factor, workers, horizon, full, half_open, blocked, *rest = numbers
        tats, offsets = tuple(rest[:dims]), tuple(rest[dims:])
        reply = Reply(
            int(count), now, tats, paused, factor, int(workers), horizon, offsets, bool(full),
            int(half_open), bool(blocked),
        )  # fmt: skip
        return checked(reply, request)
    except RecordError as error:
        return error
    except (TypeError, ValueError, OverflowError) as error:
        return RecordError(f"the store answered {str(answer)[:200]}, which is no reply: {error}")
