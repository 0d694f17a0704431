"""Tasks that are made of tasks.

As a program it is the client: `python celery_canvas.py ask|wait`, the second one patched.
"""

from __future__ import annotations

import sys

if "wait" in sys.argv:
    import greenkit.auto

import os
import time

import gevent
from celery import Celery, chain, chord, group

import greenkit.celery

app = Celery("celery_canvas", broker=os.environ["TEST_BROKER"], backend=os.environ["TEST_BACKEND"])
app.conf.update(task_acks_late=True, worker_prefetch_multiplier=1, broker_connection_retry_on_startup=True)
greenkit.celery.install(app)


@app.task
def add(one: int, two: int) -> int:
    time.sleep(0.02)
    return one + two


@app.task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@app.task(bind=True)
def replaced(self: object, number: int) -> None:
    raise self.replace(add.s(number, 1))  # type: ignore[attr-defined]


@app.task(bind=True, autoretry_for=(KeyError,), retry_backoff=False, default_retry_delay=0.05, max_retries=3)
def stubborn(self: object) -> int:
    if self.request.retries < 2:  # type: ignore[attr-defined]
        raise KeyError("again")
    return int(self.request.retries)  # type: ignore[attr-defined]


@app.task
def parent() -> int:
    """Wait for another task, which the documentation forbids and people do."""
    return int(add.delay(1, 2).get(disable_sync_subtasks=False, timeout=10)) + add.apply((1, 1)).get()


@app.task(ignore_result=True)
def waiting(number: int) -> None:
    """Wait for a task whose queue nobody reads yet."""
    answer = add.apply_async((number, 1), queue="held")
    app.backend.client.incr("sum", answer.get(disable_sync_subtasks=False, timeout=60))


@app.task(bind=True)
def refused(self: object) -> None:
    from celery.exceptions import Reject

    raise Reject("poison", requeue=False)


def ask() -> dict[str, object]:
    """Send everything and wait for all of it, as a client does."""
    late = time.monotonic()
    waits = {
        "chain": chain(add.s(1, 1), add.s(2), add.s(3)).delay(),
        "group": group(add.s(n, n) for n in range(20)).delay(),
        "chord": chord([add.s(n, n) for n in range(20)], total.s()).delay(),
        "nested": chain(group(add.s(n, 0) for n in range(5)), total.s(), add.s(1)).delay(),
        "replace": replaced.delay(41),
        "retry": stubborn.delay(),
        "parents": group(parent.s() for _ in range(4)).delay(),
        "countdown": add.apply_async((1, 1), countdown=1),
    }
    answers: dict[str, object] = {name: result.get(timeout=20) for name, result in waits.items()}
    answers["waited"] = time.monotonic() - late >= 1
    answers["refused"] = refused.apply_async().get(propagate=False, timeout=20).__class__.__name__
    many = [add.delay(n, 1) for n in range(100)]
    answers["many"] = sum(result.get(timeout=20) for result in many)
    return answers


def send_and_wait(number: int) -> int:
    return int(add.apply_async((number, 1), queue="held").get(timeout=60))


def wait() -> int:
    """Wait in a hundred greenlets, as a web server on gevent does; half of them sent what they wait for."""
    held = [add.apply_async((number, 1), queue="held") for number in range(50)]
    waiters = [gevent.spawn(answer.get, timeout=60) for answer in held]
    waiters += [gevent.spawn(send_and_wait, number) for number in range(50)]
    return sum(waiter.get() for waiter in waiters)


if __name__ == "__main__":
    sys.stdout.write(repr(globals()[sys.argv[1]]()))
