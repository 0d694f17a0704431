"""However a task ends, its result, message, signals and events are those of a prefork worker.

The expected values were read off a prefork worker of Celery 5.7 without greenkit, which ran the same
program. Two it cannot give: it dies of a MemoryError, and a `gevent.Timeout` cannot be pickled; they
are treated as any other exception. A hard limit it announces twice; we do once.
"""

from __future__ import annotations

import inspect
import itertools
import threading
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest
from celery.events import EventDispatcher, EventReceiver
from celery.worker.request import Request

from tests.integration.celery_worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery.result import AsyncResult


pytestmark = pytest.mark.filterwarnings("ignore")

RAISED = {
    "exit": "WorkerLostError", "interrupt": "WorkerLostError", "base": "BaseException",
    "timeout": "Timeout", "killed": "GreenletExit", "cancelled": "CancelledError",
    "memory": "MemoryError", "error": "ValueError", "reject": "Reject", "hard": "TimeLimitExceeded",
    "soft": "SoftTimeLimitExceeded",
}  # fmt: skip
HANDLED = ["task_prerun", "on_failure", "task_failure", "task_postrun"]
# Before 5.7 a hard limit is told to the result alone (celery/worker/request.py, `Request.on_timeout`).
TOLD_OF_HARD_LIMITS = "on_failure(" in inspect.getsource(Request.on_timeout)
# … and its message is neither acknowledged nor given back where `acks_on_failure_or_timeout` is off.
REJECTS_AT_HARD_LIMITS = "reject(requeue=True)" in inspect.getsource(Request.on_timeout)
# Before 5.7 nobody is told of a Reject, and its result stays STARTED (the same file, `Request.on_failure`).
TOLD_OF_REJECTS = "if not exc.requeue" in inspect.getsource(Request.on_failure)
# Before 5.7 events that are noted while others are written are lost (celery/events/dispatcher.py, `flush`).
KEEPS_EVENTS = "batch = list(events)" in inspect.getsource(EventDispatcher.flush)
AT_HARD_LIMIT = HANDLED if TOLD_OF_HARD_LIMITS else ["task_prerun", "task_postrun"]
LOST = ["task_prerun", "task_postrun", "task_failure"]
SUCCEEDED = ["task_prerun", "on_success", "task_postrun"]
LIMITS = {"hard": {"time_limit": 0.7}, "soft": {"soft_time_limit": 0.7, "time_limit": 60}}


@pytest.fixture
def events(worker: Worker) -> Iterator[dict[str, list[str]]]:
    """Give the types of the events of each task, as they come in."""
    seen: dict[str, list[str]] = defaultdict(list)
    over = threading.Event()

    def note(event: dict[str, str]) -> None:
        if "uuid" in event:
            seen[event["uuid"]].append(event["type"])

    def watch() -> None:
        with worker.app.connection() as connection:
            receiver = EventReceiver(connection, handlers={"*": note}, app=worker.app)
            while not over.is_set():
                try:
                    receiver.capture(limit=None, timeout=0.5, wakeup=False)
                except TimeoutError:
                    continue

    watching = threading.Thread(target=watch)
    watching.start()
    yield seen
    over.set()
    watching.join(20)


def expected(how: str, late: bool, on_failure: bool, on_lost: bool) -> dict[str, object]:
    again = late and (
        how == "requeue"
        or (how in ("exit", "interrupt") and on_lost)
        or (how == "hard" and not on_failure and REJECTS_AT_HARD_LIMITS)
    )  # fmt: skip
    value = "again" if again else "done" if how == "return" else RAISED.get(how)
    if how == "reject" and not TOLD_OF_REJECTS:
        value = None
    state = "SUCCESS" if again or how == "return" else "FAILURE" if value else "STARTED"
    first = {"return": SUCCEEDED, "ignore": ["task_prerun", "task_postrun"]}.get(how, HANDLED)
    if how in ("exit", "interrupt", "base", "timeout", "killed", "cancelled", "reject"):
        first = LOST
    if how == "hard":
        first = AT_HARD_LIMIT
    if how == "requeue" or (again and how != "hard") or (how == "reject" and not TOLD_OF_REJECTS):
        first = ["task_prerun", "task_postrun"]
    told = ["task-received", "task-started"]
    rejected = late and (again or (how in RAISED and (how == "reject" or not on_failure)))
    if how == "return":
        told += ["task-succeeded"]
    elif how in ("reject", "hard"):
        failed = TOLD_OF_REJECTS if how == "reject" else TOLD_OF_HARD_LIMITS
        told += ["task-failed"] * failed + ["task-rejected"] * rejected
    else:
        told += ["task-rejected"] * rejected + ["task-failed"] * (state == "FAILURE")
    return {
        "state": state,
        "value": value,
        "story": first + SUCCEEDED * again,
        "events": told + ["task-received", "task-started", "task-succeeded"] * again
        if KEEPS_EVENTS
        else None,
    }


def test_each_end_under_each_setting(worker: Worker, events: dict[str, list[str]]) -> None:
    """14 ends, late and early acks, `acks_on_failure_or_timeout` and `reject_on_worker_lost` on and off."""
    ends = [*RAISED, "requeue", "ignore", "return"]
    with worker.running("-P", "gevent", "-c", "20", "-E", app="celery_outcomes"):
        sent = {
            (how, *flags): worker.app.send_task(
                "end-{:d}{:d}{:d}".format(*flags), (how,), **LIMITS.get(how, {})
            )
            for how in ends
            for flags in itertools.product((True, False), repeat=3)
        }  # fmt: skip

        def of(result: AsyncResult) -> dict[str, object]:
            # Not result.state, which keeps the first end it hears of.
            meta = worker.app.backend.get_task_meta(result.id, cache=False)
            value = meta["result"]
            if isinstance(value, BaseException):
                value = type(value).__name__
            return {
                "state": meta["status"],
                "value": value if isinstance(value, str) else None,
                "story": [told.decode() for told in worker.notes.lrange(f"story-{result.id}", 0, -1)],
                "events": events[result.id] if KEEPS_EVENTS else None,
            }

        def seen() -> dict[object, dict[str, object]]:
            return {key: of(result) for key, result in sent.items()}

        wanted = {key: expected(*key) for key in sent}
        try:
            worker.wait(lambda: seen() == wanted)
        except AssertionError:
            assert seen() == wanted
        left = 0 if REJECTS_AT_HARD_LIMITS else 2  # late, and `reject_on_worker_lost` on and off
        assert (worker.notes.llen("celery"), worker.notes.hlen("unacked")) == (0, left)
        active = worker.control.inspect(timeout=3).active()
        assert list(active.values()) == [[]]
        assert worker.end() == 0


def test_the_limits_of_a_worker_and_of_a_call(worker: Worker) -> None:
    """The command line's limits hold for all but the calls that bring their own."""
    arguments = ("-P", "gevent", "-c", "8", "--time-limit", "3", "--soft-time-limit", "1")
    with worker.running(*arguments):
        started = [
            worker.send("nap", 60),
            worker.send("nap", 60, soft_time_limit=60),
            worker.send("nap", 4, soft_time_limit=60, time_limit=60),
        ]
        names = ["SoftTimeLimitExceeded", "TimeLimitExceeded", "str"]
        worker.wait(lambda: all(one.ready() for one in started))
        assert [type(one.result).__name__ for one in started] == names
        assert worker.text().count("Hard time limit (3.0s) exceeded") == 1
        assert worker.end() == 0


def test_a_timeout_of_the_tasks_own_is_not_called_a_limit(worker: Worker) -> None:
    """The result is that Timeout; nothing is said of a limit, though the task has one."""
    with worker.running():
        own = worker.send("leave", "timeout", time_limit=60)
        worker.wait(own.ready)
        assert type(own.result).__name__ == "Timeout"
        assert str(own.result).split()[0] == "3"  # the class itself only where gevent is loaded
        worker.wait(lambda: "Timeout" in worker.text())
        assert "time limit" not in worker.text().lower()


def test_a_limit_that_comes_with_the_end_of_the_body_ends_the_task_once(worker: Worker) -> None:
    """500 tasks whose bodies end as their limits pass: each succeeded or failed, never both."""
    with worker.running("-P", "gevent", "-c", "25", app="celery_outcomes"):
        # How long a body takes to begin depends on the machine: some of these naps end with the limit.
        naps = [0.305 - number % 21 * 0.0005 - number // 21 % 5 * 0.02 for number in range(500)]
        sent = [worker.app.send_task("end-111", (f"nap {nap}",), time_limit=0.3) for nap in naps]
        worker.wait(lambda: not worker.notes.llen("celery") and not worker.notes.hlen("unacked"), 60)
        ends = []
        for one in sent:
            story = [told.decode() for told in worker.notes.lrange(f"story-{one.id}", 0, -1)]
            assert story == (SUCCEEDED if one.state == "SUCCESS" else AT_HARD_LIMIT), (one.state, story)
            ends.append(one.state)
        assert {*ends} == {"SUCCESS", "FAILURE"}, "no limit met an end: nothing was proved"
        active = worker.control.inspect(timeout=3).active()
        assert list(active.values()) == [[]]
        assert worker.end() == 0


def test_a_body_that_never_waits_is_named_and_fails_at_its_end(worker: Worker) -> None:
    """It cannot be interrupted; its result is the limit all the same, and the watchdog says where it was."""
    with worker.running(app="celery_outcomes"):
        spun = worker.app.send_task("end-111", ("spin",), time_limit=0.3)
        worker.wait(spun.ready)
        assert type(spun.result).__name__ == "TimeLimitExceeded"
        told = [told.encode() for told in AT_HARD_LIMIT]
        worker.wait(lambda: worker.notes.lrange(f"story-{spun.id}", 0, -1) == told)
        worker.wait(lambda: "celery_outcomes.py" in worker.text())
        worker.wait(
            lambda: any(
                "the hub stood still" in line and "celery_outcomes.py" in line and spun.id in line
                for line in worker.text().splitlines()
            )
        )
        assert worker.end() == 0
