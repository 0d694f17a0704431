"""When the next batch is asked for: before a slot is idle, and no sooner than it is worth it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from greenkit.celery._redis_fetch import Fetch


class Channel(SimpleNamespace):
    """What of kombu's channel a question needs."""

    def __init__(self, room: int) -> None:
        sent: list[Any] = []
        connection = SimpleNamespace(_sock=object(), send_command=lambda *command: sent.append(command))
        super().__init__(
            qos=SimpleNamespace(
                can_consume_max_estimate=lambda: room, append=None, restore_visible=lambda: None
            ),
            client=SimpleNamespace(connection=connection),
            active_queues=["q"],
            priority_steps=[0],
            _queue_cycle=SimpleNamespace(consume=lambda count: ["q"]),
            _q_for_pri=lambda queue, step: queue,
            unacked_key="unacked",
            unacked_index_key="index",
            global_keyprefix="",
            handlers={},
            _brpop_start=None,
            sent=sent,
        )


@pytest.mark.parametrize(
    ("room", "waiting", "asks"),
    [
        (23, 32, False),  # work enough, and a small batch
        (24, 32, True),  # a batch worth its trip
        (23, 31, True),  # tasks would run out
        (1, 0, True),  # a prefetch of 1: the place is a slot that is idle
        (0, 0, False),  # no place at all
    ],
)
def test_a_batch_is_fetched_when_it_is_worth_it(room: int, waiting: int, asks: bool) -> None:
    """With tasks waiting for a slot here, few free places can wait for more; without, none does."""
    pool = SimpleNamespace(statistics=lambda: SimpleNamespace(waiting=waiting))
    app = SimpleNamespace(conf={})
    hub = SimpleNamespace(call_repeatedly=lambda *_: None)
    channel = Channel(room)
    fetch = Fetch(SimpleNamespace(pool=pool, app=app, hub=hub), channel)
    fetch._script = "loaded"
    fetch._followed = channel.client.connection._sock
    channel._brpop_start()
    assert bool(channel.sent) == asks
