"""Celery's own steps, while their connection goes away under them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from celery import bootsteps

from greenkit.celery import _upstream


class Gossip(bootsteps.ConsumerStep):  # type: ignore[misc]
    """A step that has a consumer, as gossip and those of user's projects."""

    name = "a test's step"
    cancelled = 0

    def get_consumers(self, channel: Any) -> list[Any]:
        return []

    def cancel(self) -> None:
        self.cancelled += 1

    def fail(self) -> None:
        raise ConnectionResetError


def test_a_step_is_closed_when_its_connection_is_gone() -> None:
    """With Celery's own it is an AttributeError, which ends the worker; taken back, it is again."""
    undo = _upstream.close_steps_once()
    step = Gossip(None)
    step.consumers = [SimpleNamespace(channel=None, cancel=step.fail)]
    step.stop(SimpleNamespace(connection=None))
    assert step.consumers is None
    undo()
    step.consumers = [SimpleNamespace(channel=None, cancel=step.fail)]
    with pytest.raises(AttributeError, match="connection_errors"):
        step.stop(SimpleNamespace(connection=None))


def test_a_step_with_a_connection_is_closed_by_celery() -> None:
    """Its consumers are cancelled."""
    undo = _upstream.close_steps_once()
    try:
        step = Gossip(None)
        step.consumers = [SimpleNamespace(channel=None, cancel=step.cancel)]
        connection = SimpleNamespace(connection_errors=(), channel_errors=())
        step.stop(SimpleNamespace(connection=connection))
        assert step.cancelled == 1
    finally:
        undo()
