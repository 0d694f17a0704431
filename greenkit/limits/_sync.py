"""One greenlet per process and backend carries what all limiters have to say, in few round trips.

Where no hub runs it is a thread of its own; either way whoever waits for a permit never touches the network.
It has one connection, one call under way, and whatever comes up meanwhile goes with the next.
"""

from __future__ import annotations

import logging
import math
import os
import re
import weakref
from _thread import RLock
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

import gevent
from gevent import monkey

from greenkit.limits._protocol import RecordError
from greenkit.limits._queue import parker_here
from greenkit.wait import hub_here

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from greenkit.limits._protocol import Reply, Request
    from greenkit.limits._queue import GreenParker, NativeParker

__all__ = ["Sync", "Wire", "masked", "sync_of"]

# A backend that has not answered by then is away. Its client's own time-out comes a little earlier.
ANSWER_TIME = 0.25


# What took so much longer was not the backend: this process was kept from its sockets.
_LATE, _MOST_LATE = 0.1, 5
# In a thread of its own, where no time-out strikes in the middle of an answer that never ends.
_LONGEST_ANSWER = 1.0
# With nothing to do for so long it gives its connection up, and ends.
_IDLE = 10.0


_AWAY = (
    "the backend of shared limits (%s) does not answer: %s: %s; until it does, on_backend_error= decides "
    "(each process keeps to its share unless told otherwise)"
)
_UNUSABLE = (
    "the shared limit %s cannot be used as it is in the backend: %s; until it can, on_backend_error= "
    "decides. End the processes of the other release, remove the record, or give the limit another name"
)
log = logging.getLogger("greenkit.limits")
allocate_lock = monkey.get_original("_thread", "allocate_lock")
start_new_thread = monkey.get_original("_thread", "start_new_thread")


class Served(Protocol):
    """Be a budget whose state is in a backend; a `SharedBudget` is one."""

    record: str

    def wants(self) -> float:
        """Return the seconds until it has something to say."""

    def compose(self) -> Request:
        """Return all there is to say."""

    def apply(self, reply: Reply) -> None:
        """Take the answer in."""

    def lost(self, error: BaseException) -> None:
        """Go on without the backend."""


class Wire(Protocol):
    """Carry requests to a backend."""

    def ask(self, asked: Sequence[tuple[str, Request]], /) -> list[Reply | RecordError]:
        """Return the replies to all of (name of the record, request), or why there is none.

        Raises:
            Exception: The backend did not answer, or not sensibly.
        """

    def close(self) -> None:
        """Give the connection up."""

    def abort(self) -> None:
        """Have `ask()`, which another native thread is in, fail."""


class Sync:
    """Serve shared budgets.

    Args:
        connect: Makes the wire; called where the agent runs, so that nothing is shared with a parent process.

    Attributes:
        away: The backend did not answer the last time.
    """

    __slots__ = (
        "_connect",
        "_greenlet",
        "_lock",
        "_lost",
        "_parker",
        "_runs",
        "_served",
        "_unusable",
        "_where",
        "away",
    )

    def __init__(self, connect: Callable[[], Wire]) -> None:
        self._connect = connect
        self._served: set[Served] = set()
        self._unusable: set[str] = set()  # said so already
        # Budgets that wait for the backend to come back, weakly: it may never, and an unused limiter
        # must not be kept for that.
        self._lost: weakref.WeakSet[Served] = weakref.WeakSet()
        self._parker: GreenParker | NativeParker | None = None
        self._runs = self.away = False
        self._where: Any = None
        self._greenlet: Any = None
        self._lock = RLock()

    def serve(self, budget: Served) -> None:
        """See to what `budget` wants; wakes or starts the agent."""
        with self._lock:
            self._served.add(budget)
            if not self._runs or (self._where is not None and self._where.dead):
                self._start()
            elif self._parker is not None:
                self._parker.wake()

    def abandon(self) -> None:
        """End, in a forked child, the copy of the parent's greenlet: it would read the parent's answers."""
        if self._greenlet is not None:
            self._greenlet.kill(block=False)

    def _start(self) -> None:
        self._runs = True
        # In a process that is not patched a greenlet would block its hub on the socket. And the hub of
        # another native thread runs only while that thread waits for something.
        hub = hub_here() if monkey.is_module_patched("socket") else None
        hub = hub if hub is not None and hub.main_hub else None
        self._where = hub
        if hub is not None:
            self._greenlet = gevent.spawn(self._run)
            return
        start_new_thread(self._run, ())

    def _run(self) -> None:
        wire, ended = None, False
        alone = self._where is None  # in a thread of its own nothing else keeps a hub from ending
        try:
            wire = self._connect()
            while True:
                # Made before the look at the budgets, so that no request after it is missed.
                self._parker = parker_here(ref=alone)
                due, wait = self._due()
                if due:
                    self._ask(wire, due)
                elif wait < math.inf:
                    self._parker.park(wait)
                else:
                    self._parker.park(_IDLE)
                    ended = self._may_go()
                    if ended:
                        return
        finally:
            if not ended:
                self._runs = False
            if wire is not None:
                wire.close()
            hub = hub_here() if alone else None
            if hub is not None:  # made by the patched socket of the wire
                hub.destroy(destroy_loop=True)

    def _ask(self, wire: Wire, due: list[Served]) -> None:
        asked = [(budget.record, budget.compose()) for budget in due]
        try:
            replies = self._answers(wire, asked)
        except BaseException as error:
            for budget in due:
                budget.lost(error)
            if not isinstance(error, Exception):
                raise
            wire.close()
            if not self.away:
                self.away = True
                # Its text: a log that keeps the error keeps its frames, and with them the budgets.
                names = ", ".join(record for record, _ in asked[:3])
                log.warning(_AWAY, names, type(error).__name__, str(error))
            return
        for budget, reply in zip(due, replies, strict=True):
            if not isinstance(reply, RecordError):
                self._unusable.discard(budget.record)
                budget.apply(reply)
                continue
            budget.lost(reply)
            if budget.record not in self._unusable:
                self._unusable.add(budget.record)
                log.warning(_UNUSABLE, budget.record, reply)
        if self.away:
            self.away = False
            log.info("the backend of shared limits is back")

    def _answers(self, wire: Wire, asked: Sequence[tuple[str, Request]]) -> list[Reply | RecordError]:
        if not monkey.is_module_patched("socket"):
            return _ended_in_time(wire, asked)
        for _ in range(_MOST_LATE):
            begun = monotonic()
            try:
                return _in_time(wire, asked)
            except Exception:
                if monotonic() - begun < ANSWER_TIME + _LATE:
                    raise
            # The hub was busy for so long that the time-out came first; the answer may have been there.
            wire.close()
        return _in_time(wire, asked)

    def _may_go(self) -> bool:
        with self._lock:
            if self._served:
                return False
            self._runs = False  # from here on a new one is started
            return True

    def _due(self) -> tuple[list[Served], float]:
        """Return the budgets to be served now, or the seconds until one is."""
        due, wait = [], math.inf
        for budget in {*self._served, *self._lost}:
            # Out first: who asks between the two is put in again. And not under the lock, which is
            # taken by `serve()` under the budget's.
            self._served.discard(budget)
            self._lost.discard(budget)
            left = budget.wants()
            if left < math.inf:
                (self._lost if self.away else self._served).add(budget)
            if left <= 0.0:
                due.append(budget)
            wait = min(wait, left)
        return due, wait


class _AnswerTimer:
    """Raise TimeoutError in the calling greenlet when no answer comes, but for the time its hub stood still.

    A loop that has stood still runs its timers before it looks at its sockets: an answer that has come
    meanwhile is not read yet.
    """

    __slots__ = ("_caller", "_due", "_late", "_timer")

    def __init__(self) -> None:
        self._caller: Any = gevent.getcurrent()
        self._timer: Any = gevent.get_hub().loop.timer(ANSWER_TIME)
        self._late = 0
        self._start()

    def close(self) -> None:
        self._timer.close()

    def _start(self) -> None:
        self._due = monotonic() + ANSWER_TIME
        self._timer.start(self._passed, update=True)

    def _passed(self) -> None:
        late = monotonic() - self._due > _LATE and self._late < _MOST_LATE
        self._late += late
        self._start()  # once more after an error, too: the client may ask anew
        if not late:
            self._caller.throw(TimeoutError("no answer"))


def _in_time(wire: Wire, asked: Sequence[tuple[str, Request]]) -> list[Reply | RecordError]:
    timer = _AnswerTimer()
    try:
        return wire.ask(asked)
    finally:
        timer.close()


def _ended_in_time(wire: Wire, asked: Sequence[tuple[str, Request]]) -> list[Reply | RecordError]:
    """Ask, and have another thread cut the connection of an answer that does not end.

    The client's own time-out is for each piece of it.
    """
    answered = allocate_lock()
    answered.acquire()

    def watch() -> None:
        while not answered.acquire(timeout=_LONGEST_ANSWER):
            wire.abort()  # again, if the client has asked anew

    start_new_thread(watch, ())
    try:
        return wire.ask(asked)
    finally:
        answered.release()


def sync_of(key: object, connect: Callable[[], Wire]) -> Sync:
    """Return this process's agent for a backend."""
    mine = (os.getpid(), key)
    agent = _syncs.get(mine)
    if agent is None:
        agent = _syncs.setdefault(mine, Sync(connect))
    return agent


def _abandon_agents_after_fork() -> None:
    for agent in _syncs.values():
        agent.abandon()
    _syncs.clear()


_syncs: dict[tuple[int, object], Sync] = {}
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_agents_after_fork)


# Up to the last "@": a password that was not escaped may have one, and "/", "?" or "#".
_USER = re.compile(r"//.*@", re.DOTALL)
_SECRET = re.compile(
    r"((?:password|passwd|passfile|sslpassword|user|username)\s*=\s*)('[^']*'|[^\s&]*)", re.IGNORECASE
)


def masked(share: object) -> object:
    """Return `share` without user and password, in whatever form they are given."""
    if isinstance(share, bytes):
        share = share.decode(errors="replace")
    if not isinstance(share, str):
        return share
    return _SECRET.sub(r"\1***", _USER.sub("//***@", share))
