"""Second deliveries: taken over by the task that runs, acknowledged for one that ran, run otherwise."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace
from typing import Any

import pytest

from greenkit.celery._redelivery import SecondDeliveries


class Message:
    def __init__(self, *, redelivered: bool = True, retries: int = 0) -> None:
        self.headers = {"id": "one", "retries": retries}
        self.delivery_info = {"redelivered": redelivered}
        self.acks = 0

    def ack_log_error(self, *_: object) -> None:
        self.acks += 1

    reject_log_error = ack_log_error


class World:
    """A consumer that lost its connection while it had task `one` in hand."""

    def __init__(self) -> None:
        self.request: Any = SimpleNamespace(
            id="one",
            acknowledged=False,
            request_dict={"id": "one", "retries": 0},
            humaninfo=lambda: "task[one]",
        )
        self.in_hand = [self.request]
        self.received: list[Message] = []
        consumer = SimpleNamespace(
            connection_errors=(), pool=SimpleNamespace(requests=lambda: self.in_hand),
            call_soon_ack=lambda function, *arguments: function(*arguments),
        )  # fmt: skip
        self.again = SecondDeliveries(consumer)
        self.receive = self.again.guard(self.received.append)
        self.again.connection_lost()


@pytest.fixture
def world() -> World:
    return World()


def test_a_task_in_hand_takes_the_second_message_over(world: World) -> None:
    """Also one that has not begun, or whose end is being noted: it acknowledges the new message."""
    message = Message()
    world.receive(message)
    assert (world.received, message.acks) == ([], 0)
    world.request._on_ack()
    assert message.acks == 1


def test_before_celery_5_7_the_second_message_is_acknowledged_as_its_tasks_are() -> None:
    """Its consumer has no call_soon_ack(): call_soon() it is."""
    world = World()
    consumer = world.again.consumer
    consumer.call_soon = consumer.call_soon_ack
    del consumer.call_soon_ack
    message = Message()
    world.receive(message)
    world.request._on_ack()
    assert (world.received, message.acks) == ([], 1)


def test_one_that_ran_is_acknowledged(world: World) -> None:
    """Its ack went into the dead connection."""
    world.request.acknowledged, world.in_hand = True, []
    message = Message()
    world.receive(message)
    assert (world.received, message.acks) == ([], 1)


def test_one_that_was_killed_or_rejected_or_retried_runs(world: World) -> None:
    """As does a message that is no second delivery at all."""
    fresh, retry = Message(redelivered=False), Message(retries=1)
    world.receive(fresh)
    world.receive(retry)
    world.in_hand = []
    killed = Message()
    world.receive(killed)
    world.request.on_reject(None, (), True)
    rejected = Message()
    world.receive(rejected)
    assert world.received == [fresh, retry, killed, rejected]


def test_a_message_is_gone_with_its_task(world: World) -> None:
    """Not with the next run of the garbage collector: a large one is megabytes."""
    gc.disable()
    try:
        message = Message(redelivered=False)
        kept = weakref.ref(message)
        world.receive(message)
        assert len(world.received) == 1
        world.received.clear()
        del message
        assert kept() is None
    finally:
        gc.enable()
