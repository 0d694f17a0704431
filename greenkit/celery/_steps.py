"""Our steps in the consumer's start-up.

They run where Celery's blueprint puts them: after the task consumer exists, before the event loop
takes the first message, and again after each reconnect.
"""

from __future__ import annotations

from typing import Any

from celery import bootsteps

from greenkit.celery import _upstream
from greenkit.celery._loop import GreenHub

__all__ = ["OneWriter"]


class OneWriter(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery ships no types
    """Batch the consumer's acks where the broker takes them one by one."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self.owed: list[str] = []

    def include_if(self, consumer: Any) -> bool:
        """Take part only when our loop runs the consumer."""
        return isinstance(consumer.hub, GreenHub)

    def start(self, consumer: Any) -> None:
        """Exchange the new channel's `ack`."""
        if consumer.connection.transport.driver_type == "redis":
            _upstream.batch_acks(consumer.task_consumer.channel, consumer.hub, self.owed)
