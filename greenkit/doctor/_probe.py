"""Call the suspect functions and measure whom they stop.

Beside each call a greenlet ticks. How long it was starved is how long everybody would be. A call
that never comes back is broken off from a native thread, by a signal, and told.
"""

from __future__ import annotations

import signal
import time
from dataclasses import replace
from typing import Any

import gevent
from gevent.monkey import get_original

from greenkit.doctor._diagnosis import Measured
from greenkit.doctor._probes import PROBES, WAIT
from greenkit.doctor._probes_drivers import driver_probes
from greenkit.errors import GreenkitError
from greenkit.findings import Finding, Severity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import FrameType

__all__ = ["findings_of", "measure"]

_TICK = 0.002
_LIMIT = 2.0
"""Seconds after which a call counts as hanging."""
_SIGNAL = signal.SIGALRM
_now = time.monotonic


def measure(dsn: str = "", *, limit: float = _LIMIT) -> Iterator[Measured]:
    """Yield what each call measured, as soon as it has.

    Args:
        dsn: Address of a Postgres server for its drivers; "" leaves them out.
        limit: Seconds a call may take before it is broken off.

    Raises:
        GreenkitError: Called outside the main thread, whose hub is the one that matters.

    Switches: may.
    """
    with _Breaker(limit) as breaker:
        for api, call in (*PROBES, *driver_probes(dsn)):
            seen = _once(api, call, breaker)
            for _ in range(2 * (seen.verdict == "blocks")):
                # A busy machine starves a ticker, too, but seldom at the same call three times.
                seen = min(seen, _once(api, call, breaker), key=lambda one: one.blocked_ms)
            yield seen


def findings_of(probes: Iterable[Measured]) -> tuple[Finding, ...]:
    """Return a finding (GK110) for each call that did not cooperate.

    Switches: never.
    """
    costs = {
        "blocks": ("blocks-hub", "stopped every greenlet for {0.blocked_ms:.0f} of its {0.waited_ms:.0f} ms"),
        "hangs": ("hangs", "did not come back within {0.waited_ms:.0f} ms"),
        "fails": ("crashes", "does not work: {0.note}"),
    }
    return tuple(
        Finding(
            "GK110",
            Severity.ERROR,
            f"{one.api} {costs[one.verdict][1].format(one)} (measured)",
            hint=f"Run greenkit doctor on this process: something keeps {one.api} from being gevent's.",
            rule="probe",
            effect=costs[one.verdict][0],
            holder=one.api.partition(".")[0],
            attribute=one.api.partition(".")[2],
            original=one.api,
        )
        for one in probes
        if one.verdict in costs
    )


class _HangError(BaseException):
    """Break a call off: raised by the signal, in whatever greenlet stands still."""


class _Breaker:
    """Send a signal to the main thread when its hub has stood still for `limit` seconds."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.last = 0.0  # of the tick; 0 while nothing is measured
        self.broke = False
        self._gone = False
        self._before: Any = None
        self._main = get_original("_thread", "get_ident")()

    def __enter__(self) -> _Breaker:
        try:
            self._before = signal.signal(_SIGNAL, self._break)
        except ValueError:
            raise GreenkitError("the probe measures the main thread's hub; call it there") from None
        get_original("_thread", "start_new_thread")(self._watch, ())
        return self

    def __exit__(self, *_: object) -> None:
        self._gone = True
        signal.signal(_SIGNAL, self._before)

    def _watch(self) -> None:
        sleep = get_original("time", "sleep")
        while not self._gone:
            sleep(0.05)
            if self.last and not self.broke and _now() - self.last > self.limit:
                signal.pthread_kill(self._main, _SIGNAL)

    def _break(self, _number: int, _frame: FrameType | None) -> None:
        if self.last and not self.broke:
            self.broke = True
            raise _HangError


def _once(api: str, call: Callable[[], None], breaker: _Breaker) -> Measured:
    gaps: list[float] = []

    def tick() -> None:
        while True:
            breaker.last = begin = _now()
            gevent.sleep(_TICK)
            gaps.append(_now() - begin)

    breaker.broke = False
    ticker = gevent.spawn(tick)
    gevent.sleep(_TICK * 3)
    gaps.clear()
    begin, cpu = _now(), time.thread_time()
    worker = gevent.spawn(_outcome, call)
    try:
        worker.join(breaker.limit)
        took, cpu = _now() - begin, time.thread_time() - cpu
        gevent.sleep(_TICK * 2)  # let the starved tick land
    finally:
        breaker.last = 0.0
        gevent.killall([ticker, worker], timeout=1.0)
    seen = Measured(api, "cooperates", took * 1000, min(max(gaps, default=took), took) * 1000)
    if breaker.broke or worker.value is None:
        return replace(seen, verdict="hangs", note="broken off")
    return _judge(seen, worker.value, cpu * 1000)


def _judge(seen: Measured, outcome: object, cpu_ms: float) -> Measured:
    if isinstance(outcome, BaseException):
        return replace(seen, verdict="fails", note=f"{type(outcome).__name__}: {outcome}")
    wait_ms = WAIT * 1000
    if seen.waited_ms < wait_ms / 2 and not outcome:
        note = "nobody had a turn meanwhile"
        return replace(seen, verdict="blocks", blocked_ms=seen.waited_ms, note=note)
    # Reckoning stops the others, too, but that is no wait that gevent could have made cooperative.
    return replace(seen, verdict="blocks") if seen.blocked_ms - cpu_ms > wait_ms * 0.6 else seen


def _outcome(call: Callable[[], None]) -> BaseException | bool:
    """Return what `call` raised, or whether another greenlet had a turn before it was done."""
    turns: list[float] = []
    other = gevent.spawn(lambda: turns.append(_now()))
    try:
        call()
    except gevent.GreenletExit:
        raise
    except BaseException as error:
        return error
    other.kill(block=False)
    return bool(turns)
