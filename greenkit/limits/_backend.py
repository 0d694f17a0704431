"""Where a budget lives: in this process, or at an address people write."""

from __future__ import annotations

import hashlib
import os
import secrets
from functools import cache, partial
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

from greenkit._aimd import AdaptiveSize
from greenkit.errors import ConfigError
from greenkit.limits._budget import Budget
from greenkit.limits._fleet import SharedBudget
from greenkit.limits._postgres import PostgresWire, check_driver
from greenkit.limits._redis import RedisWire, client_for
from greenkit.limits._shared import SharedStore
from greenkit.limits._shown import shown
from greenkit.limits._store import LocalStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from greenkit._clock import Clock
    from greenkit.limits._agent import Wire
    from greenkit.limits._rules import Rules

    class MakeBudget(Protocol):
        """Make a budget that lives in one backend."""

        def __call__(
            self, rules: Rules, slots: int | AdaptiveSize | None, *, clock: Clock, name: str, record: str
        ) -> Budget:
            """Return it; `record` is what it is called in a shared store."""


__all__ = ["backend_of", "local_budget", "record_of", "refuse_adaptive"]

# Two limiters of one name in one process have their own parts of its budget.
_serials = count()
_LONGEST_NAME = 300
_REDIS = frozenset({"redis", "rediss", "valkey", "valkeys", "unix"})
_POSTGRES = frozenset({"postgres", "postgresql"})


def local_budget(
    rules: Rules, slots: int | AdaptiveSize | None, *, clock: Clock, name: str, record: str = ""
) -> Budget:
    """Return a budget of this process alone.

    Switches: never.
    """
    return Budget(LocalStore(rules, slots), clock=clock, name=name)


def record_of(name: str, *key: object) -> str:
    """Return the name in a shared store of the limiter `name`, or of its `key`.

    Two different ones have different records: what separates name and key is escaped within them.

    Switches: never.
    """
    return ":".join(_escaped(str(part)) for part in (name, *key))


def _escaped(text: str) -> str:
    plain = quote(text, safe=" !$&'()*+,/;=@", errors="surrogatepass")
    if len(plain) <= _LONGEST_NAME:
        return plain
    # An index of PostgreSQL takes no more than a third of a page. "#" is in no other name.
    return f"{plain[:100]}#{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()}"


def backend_of(share: Any, *, on_error: str, processes: int = 1) -> MakeBudget:
    """Return what makes budgets that live at `share`; nothing is connected yet.

    Raises:
        ConfigError: `share` is no address, its package is missing, or `on_error` is no such thing.

    Switches: never.
    """
    if on_error not in {"local", "open", "closed"}:
        msg = f'on_backend_error must be "local", "open" or "closed", not {on_error!r}'
        raise ConfigError(msg)
    # One for the limiter and all its keys: a key that is woken again is still the same process.
    worker = partial(_worker, next(_serials))
    if hasattr(share, "evalsha"):
        return partial(_budget, worker, processes, id(share), partial(RedisWire, share, own=False), on_error)
    scheme = share.partition("://")[0].lower() if isinstance(share, str) and "://" in share else ""
    if scheme in _REDIS:
        url = share.replace("valkey", "redis", 1) if scheme.startswith("valkey") else share
        client_for(url)  # a wrong address shows now, not in the background
        return partial(_budget, worker, processes, share, partial(_redis, url), on_error)
    if scheme in _POSTGRES:
        check_driver(share)
        return partial(_budget, worker, processes, share, partial(PostgresWire, share), on_error)
    msg = (
        f"share must be the address of a server (redis://, rediss://, unix://, postgresql://) or a client of "
        f"redis-py, not {shown(share)!r}"
    )
    raise ConfigError(msg)


def _redis(url: str) -> Wire:
    return RedisWire(client_for(url), own=True)


def _budget(
    worker: Callable[[], str],
    processes: int,
    backend: object,
    connect: Callable[[], Wire],
    on_error: str,
    rules: Rules,
    slots: int | AdaptiveSize | None,
    *,
    clock: Clock,
    name: str,
    record: str,
) -> SharedBudget:
    whole = refuse_adaptive(slots)
    store = SharedStore(rules, whole, worker=worker, on_error=on_error, processes=processes)
    return SharedBudget(store, clock=clock, name=name, record=record, backend=backend, connect=connect)


def refuse_adaptive(slots: int | AdaptiveSize | None) -> int | None:
    """Return `slots`, but refuse those whose number each process would find alone.

    Raises:
        ConfigError: They are such.

    Switches: never.
    """
    if isinstance(slots, AdaptiveSize):
        msg = "adaptive concurrency is found by each process alone; with share= give concurrency a number"
        raise ConfigError(msg)
    return slots


def _worker(serial: int) -> str:
    return f"{_worker_of(os.getpid())}-{serial}"


@cache
def _worker_of(pid: int) -> str:
    """Name a process; its number alone is another's in the next container."""
    return f"{pid}-{secrets.token_hex(4)}"
