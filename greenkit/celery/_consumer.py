"""Our steps in the consumer's start-up.

They run where Celery's blueprint puts them: after the task consumer exists, before the event loop
takes the first message, and again after each reconnect.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

from celery import bootsteps

from greenkit.celery import _upstream
from greenkit.celery._amqp_broker import BulkAmqp
from greenkit.celery._event_loop import GreenHub
from greenkit.celery._ready import Consuming
from greenkit.celery._redelivery import SecondDeliveries
from greenkit.celery._redis_broker import RedisLedger
from greenkit.celery._refusals import Pause, wait_at_start, wait_for_refusing_broker

__all__ = ["OneWriter"]


class OneWriter(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery ships no types
    """Have everything the consumer tells the broker said by one greenlet, in batches."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        if not self.include_if(consumer):
            return
        self.ledger = RedisLedger(consumer, consumer.hub)
        self.redelivery = SecondDeliveries(consumer)
        self._kept = False
        self.consuming = Consuming(consumer.pool)
        consumer.create_task_handler = _guarded(consumer.create_task_handler, self.redelivery)
        # Celery calls this from the greenlet of whichever task acknowledged, and it waits for AMQP.
        restore = consumer._restore_prefetch_count_after_connection_restart
        consumer._restore_prefetch_count_after_connection_restart = partial(consumer.hub.call_soon, restore)
        _upstream.notice_frozen_broker(consumer)
        _upstream.run_rate_limits_by_one_timer(consumer)
        consumer.loop = wait_for_refusing_broker(consumer)
        consumer.blueprint.start = wait_at_start(consumer)
        consumer.hub.on_lost.append(partial(self.lost, consumer))
        pause = Pause(consumer)
        recover = consumer.on_connection_error_after_connected
        never_connected = consumer.on_connection_error_before_connected

        def on_no_connection(exc: BaseException) -> None:
            never_connected(exc)
            pause(exc)

        def on_connection_error(exc: BaseException) -> None:
            self.lost(consumer)
            recover(exc)
            pause(exc)

        consumer.on_connection_error_after_connected = on_connection_error
        consumer.on_connection_error_before_connected = on_no_connection

    def include_if(self, consumer: Any) -> bool:
        """Take part only when our loop runs the consumer."""
        return isinstance(consumer.hub, GreenHub)

    def start(self, consumer: Any) -> None:
        """Fit the new connection: its acks, its window, its events."""
        consumer.task_consumer.cancel = consumer.hub.in_loop(consumer.task_consumer.cancel)
        if consumer.event_dispatcher is not None:
            # The task that fills the buffer would flush it; the loop does so soon enough.
            consumer.event_dispatcher.buffer_limit = sys.maxsize
        driver = consumer.connection.transport.driver_type
        redis = driver == "redis"
        if driver == "amqp":
            BulkAmqp.attach(consumer)
        self._kept = redis and self.ledger.attach(consumer.task_consumer.channel)
        if self._kept:
            _open_window(consumer)
        if consumer.pool.recycling:
            consumer.hub.call_soon(consumer.task_consumer.cancel)
        self.consuming.connected = True

    def lost(self, consumer: Any) -> None:
        """Stop, then settle: called before anything of a lost connection is let go, maybe twice.

        Nothing starts any more whose message goes to others; what has ended is on the books; what
        runs is noted. What Redis is owed the next connection says; RabbitMQ has forgotten already.

        Switches: may.
        """
        self.consuming.connected = False
        consumer.pool.hold()
        consumer.hub.run_soon_quietly()
        if self._kept:
            self.ledger.let_go()
        else:
            self.redelivery.connection_lost()

    def shutdown(self, consumer: Any) -> None:
        """Give back what the worker ends with, while kombu's channel is still there."""
        if self._kept:
            self.ledger.close()


def _open_window(consumer: Any) -> None:
    # Celery makes the window smaller after a reconnect, by what runs; the ledger has put exactly
    # that into the new window already.
    if not consumer._maximum_prefetch_restored:
        consumer._maximum_prefetch_restored = True
        consumer.initial_prefetch_count = consumer.max_prefetch_count
        consumer.qos.value = consumer.max_prefetch_count
        consumer.qos.set(consumer.qos.value)


def _guarded(create: Any, redelivery: SecondDeliveries) -> Any:
    return lambda: redelivery.guard(create())
