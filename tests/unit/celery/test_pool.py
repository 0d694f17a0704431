"""The pool, driven as Celery's Request drives it."""

from __future__ import annotations

from typing import Any

import gevent
import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from gevent.event import Event

from greenkit.celery import Options, TaskPool
from greenkit.celery._task_body import _edged

TICK = 0.01


class Request:
    """Note which of a request's callbacks the pool called, in order."""

    def __init__(self, pool: TaskPool, body: Any, **limits: float) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.ended = Event()
        edged = _edged(body)
        self.job = pool.apply_async(
            lambda: (0, edged(), 0.0),
            accept_callback=lambda pid, at: self.note("accept", pid),
            callback=lambda result: self.note("success", result[1]),
            error_callback=lambda einfo: self.note("failure", einfo.traceback),
            timeout_callback=lambda soft, limit: self.note("soft" if soft else "hard", limit),
            **limits,
        )

    def note(self, what: str, value: Any) -> None:
        self.calls.append((what, value))
        if what in ("success", "failure", "hard"):
            self.ended.set()

    def names(self) -> list[str]:
        assert self.ended.wait(10)
        return [name for name, _ in self.calls]


@pytest.fixture
def pool() -> TaskPool:
    made = TaskPool(2)
    made.settings = Options(kill_grace=TICK)
    made.start()
    return made


def forever() -> None:
    Event().wait()


def test_apply_never_waits_and_the_queue_keeps_its_order(pool: TaskPool) -> None:
    """Five tasks on two slots: all are taken at once, and run first come, first served."""
    gates = [Event() for _ in range(5)]
    order: list[int] = []

    def body(number: int) -> Any:
        return lambda: (order.append(number), gates[number].wait())

    requests = [Request(pool, body(number)) for number in range(5)]
    gevent.idle()
    assert (order, pool.statistics().waiting) == ([0, 1], 3)
    for gate in gates:
        gate.set()
    assert [request.names() for request in requests] == [["accept", "success"]] * 5
    assert order == [0, 1, 2, 3, 4]
    gevent.idle()
    assert (pool.statistics().in_use, pool.statistics().ended) == (0, 5)


def test_a_closed_pool_starts_nothing_that_waits(pool: TaskPool) -> None:
    """Celery closes the pool before it stops the consumer; a slot that frees meanwhile stays free."""
    gate = Event()
    requests = [Request(pool, gate.wait) for _ in range(3)]
    gevent.idle()
    pool.close()
    gate.set()
    assert [request.names() for request in requests[:2]] == [["accept", "success"]] * 2
    gevent.idle()
    assert (requests[2].calls, pool.statistics().waiting) == ([], 1)


def test_growing_starts_what_waits_and_shrinking_spares_what_runs(pool: TaskPool) -> None:
    """A slot more starts one task at once; fewer slots end none."""
    for _ in range(4):
        Request(pool, forever)
    pool.grow(1)
    gevent.idle()
    assert (pool.statistics().in_use, pool.statistics().waiting) == (3, 1)
    pool.shrink(2)
    assert (pool.num_processes, pool.statistics().in_use) == (1, 3)
    with pytest.raises(ValueError, match="cannot shrink by 1"):
        pool.shrink(1)


def test_pausing_starts_nothing_more(pool: TaskPool) -> None:
    """After pause() a freed slot stays free; what waits is the broker's again."""
    gate = Event()
    first = Request(pool, gate.wait)
    Request(pool, forever)
    third = Request(pool, forever)
    pool.pause()
    gate.set()
    first.names()
    gevent.idle()
    assert third.calls == []
    assert pool.statistics().waiting == 1


def test_flush_forgets_what_has_not_started(pool: TaskPool) -> None:
    """Messages of a lost connection come again; the copies here must not run too."""
    requests = [Request(pool, forever) for _ in range(3)]
    pool.flush()
    assert pool.statistics().waiting == 0
    assert requests[2].calls == []


def test_a_held_pool_starts_nothing_until_it_is_flushed(pool: TaskPool) -> None:
    """From the moment of the loss: not what gets a slot, what arrives, or what was about to begin."""
    gate = Event()
    runs = Request(pool, gate.wait)
    gevent.idle()
    about_to = Request(pool, forever)
    waits = Request(pool, forever)
    pool.hold()
    gate.set()
    assert runs.names() == ["accept", "success"]
    arrives = Request(pool, forever)  # kombu reads an answer while it closes
    gevent.idle()
    assert about_to.calls == waits.calls == arrives.calls == []
    pool.flush()
    again = Request(pool, lambda: None)
    assert again.names() == ["accept", "success"]
    assert about_to.calls == waits.calls == arrives.calls == []
    assert pool.statistics().in_use == 0


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(1), gevent.GreenletExit(), gevent.Timeout(3)])
def test_every_exception_is_reported_and_frees_the_slot(pool: TaskPool, error: BaseException) -> None:
    """Whatever leaves the tracer becomes a failure callback with an exception in it."""

    def body() -> None:
        raise error

    request = Request(pool, body)
    assert request.names() == ["accept", "failure"]
    assert type(error).__name__ in request.calls[-1][1]
    gevent.idle()
    assert pool.statistics().in_use == 0


def test_the_hard_limit_beats_a_bare_except(pool: TaskPool) -> None:
    """A body that swallows its kill and returns is still over its limit."""
    swallowed = []

    def body() -> str:
        try:
            forever()
        except:  # noqa: E722 - the point
            swallowed.append(True)
        return "defeated"

    assert Request(pool, body, timeout=TICK).names() == ["accept", "hard"]
    assert swallowed, "the kill never arrived"


def test_the_hard_limit_beats_a_slow_finally(pool: TaskPool) -> None:
    """A finally that waits for ever is killed again after the grace."""
    entered = []

    def body() -> None:
        try:
            forever()
        finally:
            entered.append(True)
            forever()

    assert Request(pool, body, timeout=TICK).names() == ["accept", "hard"]
    assert entered


def test_the_hard_limit_never_strikes_after_the_body(pool: TaskPool) -> None:
    """While Celery writes the result, the limit is over: no task is both succeeded and failed."""
    struck = []

    def target() -> tuple[int, str, float]:
        value = _edged(lambda: "in time")()
        try:
            Event().wait(10 * TICK)
        except BaseException:
            struck.append(True)
            raise
        return 0, value, 0.0

    ended = Event()
    results: list[Any] = []
    pool.apply_async(
        target, callback=lambda result: (results.append(result[1]), ended.set()), timeout=3 * TICK
    )
    assert ended.wait(10)
    assert (results, struck) == (["in time"], [])


def test_a_limit_that_passes_before_the_body_is_noted_before_the_end(pool: TaskPool) -> None:
    """A receiver of task_prerun may take that long; the order of what follows is that of any limit."""
    seen: list[str] = []
    ended = Event()

    def target() -> None:
        Event().wait(5 * TICK)
        try:
            _edged(lambda: seen.append("body"))()
        finally:
            seen.append("left")
            ended.set()

    pool.apply_async(target, timeout_callback=lambda soft, limit: seen.append("hard"), timeout=TICK)
    assert ended.wait(10)
    assert seen == ["hard", "left"]


def test_the_soft_limit_lets_the_task_tidy_up(pool: TaskPool) -> None:
    """SoftTimeLimitExceeded arrives where the task waits; what it returns then is its result."""

    def body() -> str:
        try:
            forever()
        except SoftTimeLimitExceeded:
            return "tidied"
        return "never told"

    request = Request(pool, body, soft_timeout=TICK)
    assert sorted(request.names()) == ["accept", "soft", "success"]
    assert ("success", "tidied") in request.calls


def test_terminate_calls_nothing_back(pool: TaskPool) -> None:
    """Celery has announced the revoke already; a success after it would be a lie."""
    request = Request(pool, forever)
    gevent.idle()
    pool.terminate_job(request.calls[0][1])
    pool.on_stop()
    assert [name for name, _ in request.calls] == ["accept"]
    assert pool.statistics().in_use == 0


def test_a_result_backend_that_fails_costs_no_slot(pool: TaskPool) -> None:
    """An exception out of Celery's callback is logged; the slot goes on."""
    called = Event()

    def callback(result: object) -> None:
        called.set()
        raise OSError("the backend is away")

    pool.apply_async(lambda: (0, None, 0.0), callback=callback)
    assert called.wait(10)
    gevent.idle()
    assert pool.statistics().in_use == 0


class Loop:
    """Be the event loop while the pool drains: the first turns raise, the others send the acks."""

    propagate_errors = (ConnectionError, KeyError)  # as with kombu's Redis

    def __init__(self, error: Exception) -> None:
        self.owner, self.raising, self.acks = gevent.getcurrent(), [error, error], 0
        self.gate = Event()

    def wake(self) -> None:
        pass

    def iterate(self, timeout: float) -> None:
        if self.raising:
            raise self.raising.pop()
        self.acks += 1
        self.gate.set()
        gevent.sleep(0)


@pytest.mark.parametrize(
    ("error", "goes_on"), [(KeyError("celeryev"), True), (ConnectionResetError(), False)]
)
def test_only_a_lost_connection_ends_the_loop_of_a_draining_pool(
    pool: TaskPool, error: Exception, goes_on: bool
) -> None:
    """An event for a service that has stopped is no reason to keep the acks of the last tasks."""
    loop = Loop(error)
    pool.register_with_event_loop(loop)  # type: ignore[arg-type]
    request = Request(pool, loop.gate.wait)
    gevent.idle()
    if not goes_on:  # nothing turns any more; the task ends by itself
        gevent.spawn_later(TICK, loop.gate.set)
    pool.on_stop()
    assert request.names() == ["accept", "success"]
    assert (loop.acks > 0) == goes_on


def test_a_request_is_in_hand_from_its_first_turn_to_its_ack(pool: TaskPool) -> None:
    """Also while its end is being noted; not before it begins, and not when it was killed."""

    class Asked:
        def __init__(self, body: Any) -> None:
            self.seen: list[bool] = []
            self.ended = Event()
            pool.apply_async(lambda: (0, _edged(body)(), 0.0), accept_callback=self.accept, callback=self.end)
            self.accept()

        def revoked(self) -> bool:
            return False

        def accept(self, *_: Any) -> None:
            self.seen.append(self in pool.requests())

        def end(self, _: Any) -> None:
            self.accept()
            self.ended.set()

    asked = Asked(lambda: None)
    assert asked.ended.wait(5)
    gevent.idle()
    asked.accept()
    assert asked.seen == [False, True, True, False]
    killed = Asked(forever)
    gevent.idle()
    pool.terminate_job(pool.running()[0].number)
    assert pool.requests() == []
    assert killed.seen == [False, True]
    pool.on_stop()
