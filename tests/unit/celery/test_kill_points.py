"""A task's greenlet, struck at any of its switches: the task ends once, and its slot is free again."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

from greenkit.celery import Options, TaskPool
from greenkit.limits import Limiter
from greenkit.testing import FakeClock, kill_at_every_switch
from tests.unit.celery.test_pool import Request

ENDS = {"success", "failure", "hard"}


class Scene:
    """Four tasks on two slots; each takes a permit and waits a few times."""

    def __init__(self) -> None:
        self.pool = TaskPool(2)
        self.pool.settings = Options(kill_grace=0.01)
        self.pool.start()
        self.limiter = Limiter("a", requests="1000000/s", concurrency=2, clock=FakeClock())
        self.requests: list[Request] = []

    def body(self) -> str:
        with self.limiter.permit():
            for _ in range(3):
                gevent.sleep(0)
        return "done"

    def work(self) -> None:
        self.requests = [Request(self.pool, self.body) for _ in range(4)]
        for request in self.requests:
            assert request.ended.wait(10), "a task never ended"

    def name(self, greenlet: Any) -> str | None:
        jobs = [request.job.greenlet for request in self.requests if request.job is not None]
        return "task" if greenlet in jobs else None

    def check(self) -> None:
        for request in self.requests:
            assert request.ended.wait(10), "a task never ended"
        gevent.idle()
        seen = self.pool.statistics()
        assert (seen.in_use, seen.waiting) == (0, 0), seen
        assert self.limiter.statistics().in_use == 0
        for request in self.requests:
            ends = [name for name, _ in request.calls if name in ENDS]
            assert len(ends) == 1, f"ended {ends}"


@pytest.mark.parametrize("error", [gevent.GreenletExit, gevent.Timeout, lambda: OSError(5)])
def test_a_struck_task_ends_once_and_frees_its_slot(error: Any) -> None:
    """By a kill, a time-out or an error, wherever it waits: one end each, slots and permits are back."""
    report = kill_at_every_switch(
        Scene.work, Scene.check, fresh=Scene, error=error, whom=lambda who, scene: scene.name(who)
    )
    assert dict(report.victims)["task"] > 30


def test_a_terminated_task_ends_once_and_frees_its_slot() -> None:
    """As a revoke does it, at every switch of anybody."""

    class Terminated(Scene):
        """Its first task is terminated by whoever is struck, which is this greenlet."""

        def work(self) -> None:
            self.requests = [Request(self.pool, self.body) for _ in range(4)]
            try:
                for request in self.requests:
                    request.ended.wait(10)
            finally:
                self.requests[0].job.terminate(9)

    report = kill_at_every_switch(Terminated.work, Scene.check, fresh=Terminated)
    assert report.points > 10
