"""Where a budget lives: in this process, or at an address people write."""

from __future__ import annotations

import os
import secrets
from functools import cache, partial
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from greenkit.errors import ConfigError
from greenkit.limits._budget import Budget
from greenkit.limits._fleet import SharedBudget
from greenkit.limits._pace import Crowd
from greenkit.limits._postgres import PostgresWire, check_driver
from greenkit.limits._redis import RedisWire, client_for
from greenkit.limits._shared import SharedStore
from greenkit.limits._store import LocalStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from greenkit._clock import Clock
    from greenkit.limits._agent import Wire
    from greenkit.limits._rules import Rules

    class MakeBudget(Protocol):
        """Make a budget that lives in one backend."""

        def __call__(self, rules: Rules, slots: int | Crowd | None, *, clock: Clock, name: str) -> Budget:
            """Return it."""


__all__ = ["backend_of", "local_budget"]

# Two limiters of one name in one process have their own parts of its budget.
_serials = count()
_REDIS = frozenset({"redis", "rediss", "valkey", "valkeys", "unix"})
_POSTGRES = frozenset({"postgres", "postgresql"})


def local_budget(rules: Rules, slots: int | Crowd | None, *, clock: Clock, name: str) -> Budget:
    """Return a budget of this process alone.

    Switches: never.
    """
    return Budget(LocalStore(rules, slots), clock=clock, name=name)


def backend_of(share: Any, *, on_error: str) -> MakeBudget:
    """Return what makes budgets that live at `share`; nothing is connected yet.

    Raises:
        ConfigError: `share` is no address, its package is missing, or `on_error` is no such thing.

    Switches: never.
    """
    if on_error not in {"local", "open", "closed"}:
        msg = f'on_backend_error must be "local", "open" or "closed", not {on_error!r}'
        raise ConfigError(msg)
    if hasattr(share, "evalsha"):
        return partial(_budget, id(share), partial(RedisWire, share, own=False), on_error)
    scheme = urlsplit(share).scheme if isinstance(share, str) else ""
    if scheme in _REDIS:
        url = share.replace("valkey", "redis", 1) if scheme.startswith("valkey") else share
        client_for(url)  # a wrong address shows now, not in the background
        return partial(_budget, share, partial(_redis, url), on_error)
    if scheme in _POSTGRES:
        check_driver(share)
        return partial(_budget, share, partial(PostgresWire, share), on_error)
    msg = (
        f"share must be the address of a server (redis://, rediss://, unix://, postgresql://) or a client of "
        f"redis-py, not {share!r}"
    )
    raise ConfigError(msg)


def _redis(url: str) -> Wire:
    return RedisWire(client_for(url), own=True)


def _budget(
    backend: object,
    connect: Callable[[], Wire],
    on_error: str,
    rules: Rules,
    slots: int | Crowd | None,
    *,
    clock: Clock,
    name: str,
) -> SharedBudget:
    if isinstance(slots, Crowd):
        msg = "adaptive concurrency is found by each process alone; with share= give concurrency a number"
        raise ConfigError(msg)
    store = SharedStore(rules, slots, worker=partial(_worker, next(_serials)), on_error=on_error)
    return SharedBudget(store, clock=clock, name=name, record=name, backend=backend, connect=connect)


def _worker(serial: int) -> str:
    return f"{_worker_of(os.getpid())}-{serial}"


@cache
def _worker_of(pid: int) -> str:
    """Name a process; its number alone is another's in the next container."""
    return f"{pid}-{secrets.token_hex(4)}"
