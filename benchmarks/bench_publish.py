"""What does it cost to send 10,000 messages of one task?

A loop over `apply_async()` with one producer, Celery's group, and `publish_many()`, on Redis and on RabbitMQ
(there with publisher confirms for all three, and without for the first two), in turn, best of three rounds
each: CPU time of the sending process per message, and the wall time of all.

Run: python benchmarks/bench_publish.py [--quick]
"""

from __future__ import annotations

import platform
import sys
import time
from importlib.metadata import version

from celery import Celery, group

from greenkit.celery import publish_many
from greenkit.testing import RabbitServer, ValkeyServer

COUNT = 1_000 if "--quick" in sys.argv else 10_000
ROUNDS = 1 if "--quick" in sys.argv else 3


def arguments():
    return ((number, f"prompt {number}") for number in range(COUNT))


def loop(app, note):
    with app.producer_or_acquire() as producer:
        for args in arguments():
            note.apply_async(args, producer=producer)


def groups(app, note):
    group(note.s(*args) for args in arguments()).apply_async()


def many(app, note):
    publish_many(note, arguments())


WAYS = {"apply_async in a loop": loop, "group().apply_async": groups, "publish_many": many}


def measure(url, options, ways):
    app = Celery("publishing", broker=url, backend="cache+memory://")
    app.conf.update(task_default_queue="bench_publish", broker_transport_options=options)

    @app.task(name="note")
    def note(number, text): ...

    best = {}
    for _ in range(ROUNDS):
        for way in ways:
            cpu, wall = time.process_time(), time.perf_counter()
            WAYS[way](app, note)
            spent = (time.process_time() - cpu, time.perf_counter() - wall)
            best[way] = min(best.get(way, spent), spent)
            with app.connection_for_write() as connection:
                purged = app.amqp.queues["bench_publish"](connection.default_channel).purge()
            assert purged == COUNT, f"{way} sent {purged} of {COUNT} messages"
    return best


def main():
    packages = ("celery", "kombu", "redis", "amqp")
    print(platform.python_version(), *(f"{name} {version(name)}" for name in packages), f"{COUNT} messages")
    print(f"{'':38}{'us CPU a message':>18}{'/loop':>8}{'wall':>9}")
    with ValkeyServer() as redis, RabbitServer() as rabbit:
        places = (
            ("redis", redis.broker_url, {}),
            ("rabbitmq", rabbit.url, {}),
            ("rabbitmq, confirms", rabbit.url, {"confirm_publish": True}),
        )
        for place, url, options in places:
            ways = [way for way in WAYS if place != "rabbitmq" or way != "publish_many"]  # it always confirms
            best = measure(url, options, ways)
            base = best["apply_async in a loop"][0]
            for way in ways:
                cpu, wall = best[way]
                print(f"{place + ', ' + way:38}{cpu / COUNT * 1e6:18.1f}{cpu / base:8.2f}{wall:7.2f} s")


if __name__ == "__main__":
    main()
