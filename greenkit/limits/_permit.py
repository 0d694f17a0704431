"""What a limiter answers with: a permit that knows what it cost, or a refusal that knows when.

Also what the end of a call means for a limit (what an error says is read by `greenkit.responses`, here it is
judged), and how a coroutine enters a permit. Bookkeeping only; the waiting and the lock are the budget's.
"""

from __future__ import annotations

import enum
import os
import socket
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import gevent
from gevent.hub import get_hub
from gevent.monkey import get_original

from greenkit import facts
from greenkit.errors import GreenkitError, RateLimited
from greenkit.limits._calendar import charged
from greenkit.responses import Answer, chain, is_disconnect, is_slow, read
from greenkit.wait import Mailbox, hub_here

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType
    from typing import Literal

    from greenkit._clock import Clock
    from greenkit.limits._gcra import Amounts

__all__ = [
    "HELD",
    "LET_THROUGH",
    "LONGEST_PAUSE",
    "NEW",
    "TAKEN",
    "TAKEN_SHADOW",
    "Ending",
    "Issuer",
    "Permit",
    "Refusal",
    "answered",
    "ending_of",
    "entered",
    "named",
    "too_busy",
    "worth_another",
]

# What a permit is going through. Plain numbers: they are compared on every call.
# A shadow lets through what it would have held back; that one owes nothing.
# TAKEN ones come from try_permit() and are entered once more, without waiting.
NEW, HELD, SETTLED, LET_THROUGH, ENDED, TAKEN, TAKEN_SETTLED, TAKEN_SHADOW = range(8)
_SHOWN = ("not entered", "held", "held", "held", "ended", "taken", "taken", "taken")
_SHADOWS = frozenset({LET_THROUGH, TAKEN_SHADOW})
_ENTERED = {TAKEN: HELD, TAKEN_SETTLED: SETTLED, TAKEN_SHADOW: LET_THROUGH}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Say no, falsily, to `try_permit()`.

    Attributes:
        limiter: Name of the limiter that refused.
        retry_after: Seconds after which the same cost would pass as things stand. Where only
            `concurrency` is in the way nobody can know, and this is 0.1.
        window: The limit that is used up, such as "requests 10000/day"; empty when it is not the rate.
    """

    limiter: str
    retry_after: float
    window: str = ""

    def __bool__(self) -> Literal[False]:
        return False


class Issuer(Protocol):
    """Be who a permit is of: a limiter, or a key of one."""

    _terms: Any  # what all keys of a limiter have in common

    @property
    def name(self) -> str:
        """Return the limiter's name."""

    @property
    def clock(self) -> Clock:
        """Return where time comes from."""

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Return the names costs can be given in."""

    @property
    def _budget(self) -> Any: ...

    def _take_nowait(self, costs: Amounts, /) -> float: ...

    def _wait(self, permit: Permit) -> None: ...

    def _teach(self, before: Amounts, costs: Mapping[str, float]) -> None: ...

    def _failed(
        self, error: BaseException, answer: Answer, ending: Ending, *, alone: bool = False
    ) -> None: ...


class Permit:
    """Let one call through, at a cost that can be corrected once it is known; made by a limiter.

    Entering waits in the queue; leaving gives back the concurrency slot. How the block ended decides
    about the cost:

    - normally, or with most errors: it stands as reserved or as settled;
    - with a 429 (`RateLimited`, or any error that carries that status): `requests` stands, the
      rest is refunded, and everybody pauses for what the server said;
    - before anything was sent (connection refused, unknown host): all of it is refunded.

    What `settle()` said always stands. A permit is for one call and one `with`.

    Attributes:
        waited: Seconds entering took.
    """

    # No __init__: the limiter sets these, at a third of the price, and this is made for every call.
    __slots__ = ("_costs", "_door", "_lane", "_probe", "_since", "_state", "_timeout", "waited")

    _costs: Amounts
    _door: Issuer
    _lane: int
    _probe: Any  # number of the pause after which it goes first, and the others wait for its answer; else 0
    _since: BaseException | None  # what was being handled on entering: older than the call
    _state: int
    _timeout: float | None
    waited: float

    def __repr__(self) -> str:
        costs = ", ".join(f"{name}={cost:g}" for name, cost in self.costs.items())
        return f"<Permit of {self._door.name!r}, {costs}, {_SHOWN[self._state]}>"

    def __bool__(self) -> Literal[True]:
        return True

    @property
    def costs(self) -> dict[str, float]:
        """Return what this permit costs as of now, by dimension."""
        costs: dict[str, float] = self._door._terms.rules.by_dimension(self._costs)
        return costs

    def __enter__(self) -> Permit:
        """Wait, in order, until the cost may go.

        Raises:
            LimitTimeout: It cannot go in time; said at once, not at the end of the time.
            RuntimeError: The permit was used before, or is held, also by another greenlet.

        Switches: may.
        """
        self._since = sys.exc_info()[1]
        if self._state:
            return self._enter_taken()
        door = self._door
        if door._take_nowait(self._costs):
            door._wait(self)
        else:
            self._state = HELD
        self._probe = door._budget.probe()
        if door._terms.by_calendar:
            self._costs = charged(self._costs, door.clock, waited=self.waited > 0)
        if facts.listeners:
            facts.emit(facts.PermitGranted(door.name, self.waited))
        return self

    async def __aenter__(self) -> Permit:
        """Enter from a coroutine: it waits in the same queue, and its loop goes on.

        Raises:
            LimitTimeout: It cannot go in time. RuntimeError: The permit was used before, or is held.

        Switches: never; the coroutine waits.
        """
        self._since = sys.exc_info()[1]
        if not self._state and not self._door._take_nowait(self._costs):  # it answers with what is in the way
            self._state = HELD
            self._probe = self._door._budget.probe()
            if self._door._terms.by_calendar:
                self._costs = charged(self._costs, self._door.clock, waited=False)
            if facts.listeners:
                facts.emit(facts.PermitGranted(self._door.name, self.waited))
            return self
        return await entered(self.__enter__, self._end)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """End the call, as leaving a `with` block does.

        Switches: never.
        """
        self._end(error)

    def _enter_taken(self) -> Permit:
        entered = _ENTERED.get(self._state)
        if entered is None:
            used = "was used before" if self._state == ENDED else "is held already"
            msg = (
                f"{self!r} {used}: a second call under it would go out unpaid, beyond `concurrency`. "
                "Every call takes its own permit()"
            )
            raise RuntimeError(msg)
        self._state = entered
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """End the call: give back its slot, and its cost as far as `error` says it did not count.

        Switches: never.
        """
        self._end(error)

    def _end(self, error: BaseException | None, *, alone: bool = False) -> None:
        state = self._state
        if state in (NEW, ENDED):
            return  # it holds nothing: a second slot given back would be another call's
        self._state = ENDED
        door = self._door
        if error is None:
            if self._probe:
                self._answered(passed=True)
            if not door._terms.counts_slots:
                self._since = None
                return
        # Finally: reading a foreign exception may raise; release the slot regardless.
        try:
            if error is not None:
                self._account(error, owed=state in (HELD, TAKEN), alone=alone)
            elif state not in _SHADOWS:
                door._budget.heard(error=False)
        finally:
            self._since = None
            if self._probe:
                self._answered(passed=False)  # not heard of: another goes first
            if state not in _SHADOWS:
                door._budget.give_back_slot()

    def _answered(self, *, passed: bool) -> None:
        number, self._probe = self._probe, 0
        self._door._budget.probe_answered(number, passed=passed)

    def settle(self, *, requests: float | None = None, tokens: float | None = None, **others: float) -> None:
        """Say what the call really cost: the rest is refunded, or the debt is charged.

        Dimensions not named keep what they cost. May be said again when more is known, and after
        the block. A debt makes those who come next wait; it is never refused.

        Args:
            requests: What it cost of this dimension.
            tokens: Likewise.
            others: Of further dimensions by name.

        Raises:
            RuntimeError: The permit was not entered yet, so there is nothing to settle.
            TypeError: A name is no dimension of this limiter, or a cost is no number.
            ValueError: A cost is negative, NaN, or so large that the debt would take ten years to pay.

        Switches: never.
        """
        state = self._state
        door = self._door
        if state == HELD:
            self._state = SETTLED
        elif state == TAKEN:
            self._state = TAKEN_SETTLED
        elif state == NEW:
            msg = f"{self!r}: settle() belongs inside the with block, once the cost is known"
            raise RuntimeError(msg)
        if self._probe and state != ENDED:  # there is an answer to count
            self._answered(passed=True)
        costs = named(requests, tokens, others)
        if door._terms.learns:
            door._teach(self._costs, costs)
        if state not in _SHADOWS:
            self._costs = door._budget.settle(self._costs, costs)

    def cancel(self) -> None:
        """Give everything back, as if the permit had never been taken: the call was not made.

        Switches: never.
        """
        state, self._state = self._state, ENDED
        self._probe, self._since = 0, None
        if state not in _SHADOWS and state not in {NEW, ENDED}:
            self._door._budget.take_back(self._costs)

    def _account(self, error: BaseException, *, owed: bool, alone: bool) -> None:
        since = getattr(self, "_since", None)
        answer = read(error, since=since)
        ending = ending_of(error, answer, since=since)
        self._door._failed(error, answer, ending, alone=alone)
        if self._probe and answered(error, answer, ending, since=since):
            self._answered(passed=True)
        if ending is not Ending.SPENT and owed:
            keep = "requests" if ending is Ending.REJECTED else ""
            refund = {name: 0.0 for name in self._door.dimensions if name != keep}
            self._costs = self._door._budget.settle(self._costs, refund)


def named(requests: float | None, tokens: float | None, others: dict[str, float]) -> dict[str, float]:
    """Return costs by name, of arguments that may not have been given; `others` with the rest put in."""
    if requests is not None:
        others["requests"] = requests
    if tokens is not None:
        others["tokens"] = tokens
    return others


# A server once asked for 3.2 days and a client slept them. Whoever must wait longer than this is
# told 429 again, which costs one request every two minutes.
LONGEST_PAUSE = 120.0

# What a server answers that did not do the call: its rate is exceeded, or (529) it says it is overloaded.
_REFUSED = frozenset({429, 529})


class Ending(enum.Enum):
    """Say how a call ended, as far as its cost goes."""

    SPENT = "it went out, or may have: the cost stands"
    REJECTED = "the server refused it with 429 or 529: the request counts, the rest does not"
    NEVER_SENT = "it never left this machine: nothing counts"


def ending_of(
    error: BaseException | None, answer: Answer | None = None, *, since: BaseException | None = None
) -> Ending:
    """Return what `error`, raised by the call itself, says about its cost.

    Args:
        error: What the call ended with.
        answer: What `read()` makes of it, if it was asked already.
        since: What was being handled when the call began; it refunds nothing.
    """
    if error is None:
        return Ending.SPENT
    said = read(error, since=since) if answer is None else answer
    if said.status in _REFUSED:
        return Ending.REJECTED
    if said.status is not None:
        return Ending.SPENT
    # The connection was refused or the name unknown: clients wrap these, and chain them.
    links = chain(error, since=since)
    if any(isinstance(link, ConnectionRefusedError | socket.gaierror) for link in links):
        return Ending.NEVER_SENT
    return Ending.SPENT


def answered(
    error: BaseException, answer: Answer, ending: Ending, *, since: BaseException | None = None
) -> bool:
    """Tell whether a call that ended with `error` was let in by its server, so that others may follow.

    No for a refusal, an overload, a connection that broke or timed out, and a call that was killed.
    """
    if not isinstance(error, Exception) or ending is not Ending.SPENT:
        return False
    if answer.status is not None and answer.status >= 400:
        return not answer.overloaded
    return not is_disconnect(error, since=since)


def worth_another(error: BaseException, *, since: BaseException | None = None) -> bool:
    """Tell whether the same call may well succeed later.

    Yes for 408, 409, 425, 429, 5xx, and for connections that broke or timed out. No for an
    exhausted quota or a call that is too large (waiting heals neither), for anything the server asks
    not to repeat (`x-should-retry: false`), for greenkit's own refusals, and for what is not an
    `Exception` (a kill, a `gevent.Timeout`).
    """
    if not isinstance(error, Exception):
        return False
    if isinstance(error, GreenkitError) and not isinstance(error, RateLimited):
        return False
    answer = read(error, since=since)
    # A 200 whose body broke off is a disconnect.
    if answer.status is not None and answer.status >= 400:
        return answer.transient
    return is_disconnect(error, since=since)


def too_busy(error: BaseException, answer: Answer, *, since: BaseException | None = None) -> bool:
    """Tell whether the server had too much to do, or was too slow to answer."""
    return answer.overloaded if answer.status is not None else is_slow(error, since=since)


T = TypeVar("T")


async def entered(enter: Callable[[], T], leave: Callable[[BaseException], object]) -> T:
    """Return what `enter()` returns, run where it may wait; cancelled, nothing stays taken.

    Args:
        enter: Waits in greenkit's way.
        leave: Undoes an `enter()` that succeeded when nobody was there any more to have its result.
    """
    import asyncio  # late: programs without coroutines do not load it

    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()
    gone: list[BaseException] = []

    def run() -> None:
        try:
            result = enter()
        except BaseException as error:
            loop.call_soon_threadsafe(_tell, answer, None, error)
            return
        if gone:
            leave(gone[0])
        else:
            loop.call_soon_threadsafe(hand_over, result)

    def hand_over(result: T) -> None:
        # In the loop's thread, as the cancel is: one of them comes first.
        if gone:
            leave(gone[0])
        else:
            taken.append(True)
            _tell(answer, result, None)

    waiting: list[Any] = []
    taken: list[bool] = []

    def start() -> None:
        if not gone:
            waiting.append(gevent.spawn(run))

    mailbox = Mailbox.of(hub_here()) if hub_here() is not None else _helper()
    mailbox.post(start)
    try:
        return await answer
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError):
            gone.append(error)
            if taken:
                leave(error)  # granted and cancelled in the same pass of the loop
            else:
                mailbox.post(lambda: gevent.killall(waiting, block=False))
        raise


def _tell(answer: Any, result: Any, error: BaseException | None) -> None:
    if answer.done():
        return
    if error is None:
        answer.set_result(result)
    elif isinstance(error, gevent.GreenletExit):
        answer.cancel()
    else:
        answer.set_exception(error)


_helpers: dict[int, Mailbox] = {}  # process id → the mailbox of its waiting thread
_allocate_lock, _start_new_thread = (
    get_original("_thread", name) for name in ("allocate_lock", "start_new_thread")
)
_making = _allocate_lock()


def _helper() -> Mailbox:
    """Return the mailbox of the thread that waits for programs without a hub; started at the first call."""
    with _making:
        made = _helpers.get(os.getpid())
        if made is None:
            ready = _allocate_lock()
            ready.acquire()
            found: list[Mailbox] = []
            _start_new_thread(_serve, (found, ready))
            ready.acquire()
            made = _helpers[os.getpid()] = found[0]
        return made


def _serve(found: list[Mailbox], ready: Any) -> None:
    mailbox = Mailbox.of(get_hub())
    mailbox.keep_alive()
    found.append(mailbox)
    ready.release()
    get_hub().join()  # for as long as the process: keep_alive() never ends
