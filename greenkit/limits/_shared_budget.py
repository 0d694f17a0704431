"""A budget whose state is shared with other processes, and the addresses it may live at.

`_sync` carries what it has to say.
"""

from __future__ import annotations

import hashlib
import math
import os
import secrets
from functools import cache, partial
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

from greenkit._aimd import AdaptiveSize
from greenkit.errors import ConfigError
from greenkit.limits._local import LocalBudget
from greenkit.limits._postgres import PostgresWire, check_driver
from greenkit.limits._queue import NORMAL, parker_here
from greenkit.limits._redis import RedisWire, client_for
from greenkit.limits._reservations import Try
from greenkit.limits._shared_state import SharedState
from greenkit.limits._sync import shown, sync_of

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from greenkit._clock import Clock
    from greenkit.limits._gcra import Amounts, Rules
    from greenkit.limits._protocol import Reply, Request
    from greenkit.limits._queue import Waiter
    from greenkit.limits._sync import Wire

    class MakeBudget(Protocol):
        """Make a budget that lives in one backend."""

        def __call__(
            self, rules: Rules, slots: int | AdaptiveSize | None, *names: Hashable, clock: Clock
        ) -> LocalBudget:
            """Return it; `names` are the limiter's, and the key where it is one's."""


__all__ = ["SharedBudget", "backend_of", "record_of", "refuse_adaptive"]

# A backend that is silent for so long is away, whatever its client is still waiting for; and for so much
# longer after that was first seen: a process that was kept busy sees the time before it sees the answer.
_SILENCE, _SECOND_LOOK = 0.25, 0.05
# While somebody waits the agent is seen to be alive.
_LOOK = 0.5


class SharedBudget(LocalBudget):
    """Grant what a shared store books for this process.

    Args:
        state: This process's part.
        clock: Where `now` comes from.
        name: Shown in errors.
        record: Name of the record in the backend.
        backend: What tells one backend from another.
        connect: Makes the wire to it.
    """

    __slots__ = ("_backend", "_connect", "_looked_at", "_silent", "record")

    state: SharedState

    def __init__(
        self,
        state: SharedState,
        *,
        clock: Clock,
        name: str,
        record: str,
        backend: object,
        connect: Callable[[], Wire],
    ) -> None:
        super().__init__(state, clock=clock, name=name)
        self._looked_at = -math.inf
        self._silent = (math.inf, 0.0)  # of which request it was first seen that it has no answer, and when
        self.record = record
        self._backend = backend
        self._connect = connect
        if sync_of(backend, connect).away:
            state.lost(self.now())  # as all know by now; no need to wait for it once more

    def take_nowait(self, costs: Amounts) -> float:
        """Take `costs` if they are in hand, else say anything but 0; never asks."""
        with self.lock:
            if not self.state.online:
                self._tell()  # whoever met the backend away has to ask for it to come back
            return 1.0 if self.queue.waiting else self.state.admit(costs, self.now(), credit=0.0)

    def take(self, costs: Amounts, *, lane: int, until: float) -> None:
        """Take `costs` when their turn has come and the backend has booked them; see `LocalBudget.take()`."""
        if until <= self.now() and not self.try_take(costs):
            return  # no time to wait is time enough to ask
        super().take(costs, lane=lane, until=until)

    def try_take(self, costs: Amounts) -> float:
        """Take `costs` if nobody waits here and the backend lets them go now.

        Returns:
            0.0 when taken, else the seconds after which they would pass.
        """
        with self.lock:
            if self.queue.waiting:
                return max(self.state.eta(costs, self.queue.ahead(NORMAL), self.now()), 1e-9)
            if not self.state.online:
                return self._alone(costs)
            if not self.state.admit(costs, self.now(), credit=0.0):
                return 0.0
            parker = parker_here()
            attempt = Try(costs, parker)
            self.state.tries.append(attempt)
            self._tell()
        try:
            while attempt.answer is None:
                parker.park(max(_SECOND_LOOK, min(_SILENCE, self._verdict_at() - self.now())))
                if attempt.answer is None:
                    self._look_at_silence()
        except BaseException:
            with self.lock:
                attempt.left = True
                if attempt.answer == 0.0:
                    self.state.take_back(costs, self.now())
                    self._tell()
            raise
        return attempt.answer

    # -- for the agent -------------------------------------------------------------------------------

    def wants(self) -> float:
        """Return the seconds until this budget has something to say; 0 or less for now, `inf` for nothing."""
        with self.lock:
            now = self.now()
            at = self.state.wants(self.queue, now)
            return 0.0 if at <= now else at - now

    def compose(self) -> Request:
        """Return all there is to say."""
        with self.lock:
            return self.state.compose(self.queue, self.now())

    def apply(self, reply: Reply) -> None:
        """Take the answer in."""
        with self.lock:
            for attempt in self.state.answered(reply, self.now()):
                if attempt.answer == 0.0 and not attempt.left:
                    self.state.grant()
                if attempt.answer is None:
                    attempt.answer = 0.1
                attempt.parker.wake()
            self._look_soon()

    def lost(self, error: BaseException) -> None:
        """Go on without the backend."""
        with self.lock:
            for attempt in self.state.lost(self.now()):
                if not attempt.left:
                    attempt.answer = self._alone(attempt.costs)
                attempt.parker.wake()
            self._look_soon()

    # -- the lock is held in all that follows --------------------------------------------------------

    def _alone(self, costs: Amounts) -> float:
        self._tell()
        now = self.now()
        wait = self.state.admit(costs, now, credit=0.0)
        return wait if wait < math.inf else max(self.state.eta(costs, (0.0,) * len(costs), now), 1e-9)

    def _tell(self) -> None:
        sync_of(self._backend, self._connect).serve(self)

    def _look_at_silence(self) -> None:
        with self.lock:
            if self._is_silent(self.now()):
                self.lost(TimeoutError())
            else:
                self._tell()

    def _is_silent(self, now: float) -> bool:
        """Tell whether the backend does not answer, though this process has looked twice."""
        asked_at = self.state.asked_at
        if now - asked_at < _SILENCE:
            return False
        if self._silent[0] != asked_at:
            self._silent = (asked_at, now)
        return now - self._silent[1] >= _SECOND_LOOK

    def _verdict_at(self) -> float:
        """Return when to look whether the backend has answered; `inf` while it was asked nothing."""
        if self.state.asked_at == math.inf:
            return math.inf  # or a timer would go off at once, again and again, for as long as somebody waits
        asked_at, seen_at = self.state.asked_at, self._silent[1]
        return seen_at + _SECOND_LOOK if self._silent[0] == asked_at else asked_at + _SILENCE

    def _next(self, now: float) -> Waiter | None:
        if self._is_silent(now):
            self.lost(TimeoutError())
        elif now - self._looked_at >= _LOOK:
            self._looked_at = now
            self._tell()
        return super()._next(now)

    def _set_timer(self, head: Waiter, due: float, now: float) -> None:
        self._time(head, min(due, self.queue.next_expiry(), self._verdict_at(), now + _LOOK), now)


# Two limiters of one name in one process have their own parts of its budget.
_serials = count()
_LONGEST_NAME = 300
_REDIS = frozenset({"redis", "rediss", "valkey", "valkeys", "unix"})
_POSTGRES = frozenset({"postgres", "postgresql"})


def record_of(name: Hashable, *key: Hashable) -> str:
    """Return the name in a shared store of the limiter `name`, or of its `key`.

    Two different ones have different records: what separates name and key is escaped within them.
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
    *names: Hashable,
    clock: Clock,
) -> SharedBudget:
    whole = refuse_adaptive(slots)
    state = SharedState(rules, whole, worker=worker, on_error=on_error, processes=processes)
    name = ":".join(map(str, names))
    record = record_of(*names)
    return SharedBudget(state, clock=clock, name=name, record=record, backend=backend, connect=connect)


def refuse_adaptive(slots: int | AdaptiveSize | None) -> int | None:
    """Return `slots`, but refuse those whose number each process would find alone.

    Raises:
        ConfigError: They are such.
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
