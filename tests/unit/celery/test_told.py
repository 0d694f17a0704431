"""What the limiter of a task hears when the task is sent again."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from celery import Celery
from celery.exceptions import Retry

from greenkit import Limiter
from greenkit.celery._job import Job
from greenkit.celery._task_body import wrap
from greenkit.errors import RateLimited
from greenkit.testing import FakeClock


@pytest.mark.parametrize("way", ["ours", "theirs", "none"])
def test_a_declared_quota_hears_its_429(way: str) -> None:
    """Whether greenkit, the task or nobody makes a retry of it: a pause, a refund, one rejection."""
    app = Celery("t", broker="memory://", backend="cache+memory://")
    limiter = Limiter("llm", requests="100/s", tokens="1000/min burst 1000", clock=FakeClock(1000))

    @app.task(name=f"t.{way}", limits=limiter, cost={"tokens": 900}, bind=True)  # type: ignore[untyped-decorator]
    def ask(self) -> None:  # type: ignore[no-untyped-def]
        error = RateLimited("429", retry_after=30.0)
        if way == "theirs":
            raise Retry(exc=error)
        raise error

    wrap([ask], edges=True, retry_limited=way == "ours")
    ended: list[object] = []

    def target() -> object:
        ask.push_request(
            id="1", args=(), kwargs={}, called_directly=False, is_eager=False, retries=0, delivery_info={}
        )
        try:
            return ask.run()
        finally:
            ask.pop_request()

    job = Job(
        target,
        (),
        hooks={"failure": ended.append},
        limit=None,
        soft_limit=None,
        grace=1.0,
        request=SimpleNamespace(task=ask, id="1", args=(), kwargs={}, revoked=lambda: False),
    )
    job.permit = limiter.try_permit(tokens=900).__enter__()  # type: ignore[union-attr]
    job.start(lambda job: None)
    job.greenlet.join(5)  # type: ignore[union-attr]
    seen = limiter.statistics()
    assert (seen.rejected, seen.paused_for, seen.available["tokens"]) == (1, 30.0, 1000)
    assert job.permit is None
