"""Kill a call at each of its switch points, one run for each, and check what it owned."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import gevent
import greenlet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["KillReport", "kill_at_every_switch"]

State = TypeVar("State")
_ENOUGH = 5  # failures: those that follow have the same cause


@dataclass(frozen=True, slots=True)
class KillReport:
    """Where a call was killed.

    Attributes:
        points: How many switch points were visited, each in a run of its own.
        places: (place, times): the lines it waited in, `file:line function`.
        victims: (name, times): whom it struck, as `whom` names them.
    """

    points: int
    places: tuple[tuple[str, int], ...]
    victims: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        names = ", ".join(f"{name} {times}" for name, times in self.victims)
        return f"visited {self.points} switch points in {len(self.places)} places ({names})"


class _Strike:
    """Watch the switches of this thread, and kill at one of the points that they are.

    A point is a switch at which a victim waits, its own and each of somebody else's, or at which it begins to
    run. So the kill is thrown before anything that is set off from then on: a wake-up the victim has arranged
    for itself, a promise somebody is about to make to it.
    """

    def __init__(self, point: int, error: Any, whom: Callable[[Any], str | None]) -> None:
        self.point, self.error, self.whom = point, error, whom
        self.seen = 0
        self.name = self.place = ""
        self.landed = False  # thrown where it waited; a kill may also come after the last wait
        self._victim: Any = None
        self._known: dict[Any, str] = {}
        self._previous: Any = None

    def __call__(self, event: str, switch: tuple[Any, Any]) -> None:
        if self._previous is not None:
            self._previous(event, switch)
        origin, target = switch
        if self._victim is not None:
            if origin is self._victim and not self.landed and not origin.dead:
                self.place = _place(origin)
            self.landed = self.landed or (event == "throw" and target is self._victim)
            return
        for candidate in switch:
            name = None if candidate.dead or candidate in self._known else self.whom(candidate)
            if name is not None:
                self._known[candidate] = name
        for candidate, name in self._known.items():
            self.seen += not candidate.dead
            if self.seen == self.point:
                self._victim, self.name = candidate, name
                if candidate is not target:
                    self.place = _place(candidate)
                error = self.error() if callable(self.error) else self.error
                # Not kill(): that ends a greenlet that has not reached its first line without a trace.
                gevent.get_hub().loop.run_callback(_throw, candidate, error)
                return

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch for the length of the block."""
        self._previous = greenlet.gettrace()
        greenlet.settrace(self)
        try:
            yield
        finally:
            greenlet.settrace(self._previous)


def kill_at_every_switch(
    call: Callable[..., object],
    check: Callable[..., object],
    *,
    fresh: Callable[[], State] | None = None,
    error: Any = gevent.GreenletExit,
    whom: Callable[[Any, State], str | None] | None = None,
    timeout: float = 10.0,
    most: int = 20_000,
) -> KillReport:
    """Run `call` again and again, killed at its first switch point, its second, and so on to its last.

    A switch point is a wait of the call, together with what of the rest of the world runs meanwhile: the kill
    comes before, between and after. After each run `check` looks at what the call owned: permits, slots,
    connections, locks. The last run is not killed and must succeed. How many points were visited is printed
    and returned.

    Args:
        call: What is killed; it runs in a greenlet of its own, with what `fresh` made.
        check: Called after each run, with the same; what it raises is a failure at that point.
        fresh: Makes what a run needs anew.
        error: What is thrown: a class, a function that makes one, or an exception.
        whom: Names greenlets that may be struck, given one and what `fresh` made; None spares it. Without it
            only the greenlet of the call is struck.
        timeout: Seconds a killed call may take to end.
        most: Give up after so many points: a call that never ends visits them for ever.

    Raises:
        AssertionError: No point was visited, a call did not end, or a check failed; it names the points.

    Switches: may
    """
    places: Counter[str] = Counter()
    victims: Counter[str] = Counter()
    failures: list[str] = []
    for point in range(1, most + 1):
        given = () if fresh is None else (fresh(),)
        job = gevent.Greenlet(call, *given)
        strike = _Strike(point, error, _chooser(job, whom, given))
        with strike.watching():
            job.start()
            job.join(timeout)
        where = f"point {point}, {strike.name} killed at {strike.place}" if strike.name else "not killed"
        failures += _look(job, check, given, where, struck=bool(strike.name))
        places[strike.place] += strike.landed
        victims[strike.name] += strike.landed
        if not strike.name or not job.dead or len(failures) == _ENOUGH:
            break
    else:
        failures.append(f"the call has more than {most} switch points; most= allows more")
    report = KillReport(places.total(), _most(places), _most(victims))
    print(report)  # noqa: T201 - whoever reads the test's output sees how much it proves
    if not report.points:
        failures.append("visited no switch point: the call never waits, so nothing is proved")
    if failures:
        raise AssertionError("\n".join([str(report), *failures]))
    return report


def _most(counts: Counter[str]) -> tuple[tuple[str, int], ...]:
    return tuple((name, times) for name, times in counts.most_common() if times)


def _chooser(
    job: Any, whom: Callable[[Any, Any], str | None] | None, given: tuple[Any, ...]
) -> Callable[[Any], str | None]:
    def choose(candidate: Any) -> str | None:
        if candidate is job:
            return "the call"
        return whom(candidate, *given) if whom is not None else None

    return choose


def _look(
    job: Any, check: Callable[..., object], given: tuple[Any, ...], where: str, *, struck: bool
) -> list[str]:
    if not job.dead:
        job.kill(block=False)
        return [f"{where}: the call did not end"]
    if not struck and job.exception is not None:
        raise job.exception  # of the last run, which nobody killed
    try:
        check(*given)
    except Exception as error:
        return [f"{where}: {type(error).__name__}: {error}"]
    return []


def _throw(victim: Any, error: BaseException) -> None:
    if not victim.dead:  # it may have ended since
        victim.throw(error)


# The last of them stands between the hub and gevent where asyncio is used.
_SWITCHES = ("gevent.", "greenlet", "greenkit.boot._running_loop")


def _place(victim: Any) -> str:
    """Return the innermost line that is not the switch's own."""
    frame = victim.gr_frame
    last = "(no Python frame)"
    while frame is not None:
        code = frame.f_code
        last = f"{code.co_filename}:{frame.f_lineno} {code.co_name}"
        if not str(frame.f_globals.get("__name__", "")).startswith(_SWITCHES):
            return last
        frame = frame.f_back
    return last
