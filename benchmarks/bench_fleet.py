"""What does sharing one limit through Redis or PostgreSQL cost, and does it hold, and is it fair?

Open: 100 greenlets, the limit far away: permits per second, round trips per permit. Saturated: 100
greenlets at 500/s, burst 50. Two processes: 90 and 10 greenlets at 200/s, burst 20. Eight processes of 12.
Shown: share of the rate that was used, round trips per permit, the fullest second beside what
the bucket must allow (burst + rate), CPU per permit, and for two processes the share of the small one (0.10
by greenlets). Round trips are counted where redis-py sends; those of PostgreSQL are two per call.

Last: how long a frozen backend keeps a permit waiting.

Run: python benchmarks/bench_fleet.py [--short]
"""

from __future__ import annotations

import gevent.monkey

gevent.monkey.patch_all()

import json
import os
import subprocess
import sys
import time

import gevent
from rivals import shared_limiters

from greenkit.limits import Limiter
from greenkit.testing import PostgresServer, ValkeyServer


def greenkit(url, rate, burst):
    limiter = Limiter("bench", requests=f"{rate}/s burst {burst}", share=url)

    def wait():
        with limiter.permit():
            pass

    return wait


MAKERS = {"greenkit": greenkit, "greenkit, PostgreSQL": greenkit, **shared_limiters.ALL}


def count_round_trips():
    from redis.connection import AbstractConnection

    sent = [0]
    send = AbstractConnection.send_packed_command

    def counted(self, *args, **kwargs):
        sent[0] += 1
        return send(self, *args, **kwargs)

    AbstractConnection.send_packed_command = counted
    return sent


def child(name, url, rate, burst, greenlets, seconds):
    sent = count_round_trips()
    wait = MAKERS[name](url, int(rate), int(burst))
    gevent.sleep(0)  # there is a hub, as in a worker
    wait()  # connected, scripts loaded
    print("ready", flush=True)
    begin = float(sys.stdin.readline())
    end = begin + float(seconds)
    gevent.sleep(max(0.0, begin - time.time()))
    sent[0], passed = 0, []

    def one():
        while True:
            wait()
            now = time.time()
            if now > end:
                return
            passed.append(now)

    cpu = time.process_time()
    jobs = [gevent.spawn(one) for _ in range(int(greenlets))]
    gevent.sleep(max(0.0, end - time.time()))
    spent = time.process_time() - cpu
    gevent.killall(jobs, block=False)
    print(json.dumps({"passed": passed, "sent": sent[0], "cpu": spent}))
    sys.stdout.flush()
    os._exit(0)  # whatever threads a rival has left


def fleet(name, url, *, rate, burst, crowds, seconds):
    runs = [
        subprocess.Popen(
            [sys.executable, __file__, "--child", name, url, *map(str, (rate, burst, many, seconds))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for many in crowds
    ]
    for run in runs:
        run.stdout.readline()
    begin = time.time() + 1.0
    for run in runs:  # all of them, before one is waited for
        run.stdin.write(f"{begin}\n")
        run.stdin.flush()
    told = [run.communicate()[0] for run in runs]
    return [json.loads(one) for one in told if one]


def worst_second(passed):
    worst = first = 0
    for last, instant in enumerate(passed):
        while passed[first] <= instant - 1.0:
            first += 1
        worst = max(worst, last - first + 1)
    return worst


def transactions(dsn):
    """Return how many the server has seen; it counts those of a connection when that ends."""
    import psycopg2

    with psycopg2.connect(dsn) as conn, conn.cursor() as cursor:
        cursor.execute("SELECT sum(xact_commit) FROM pg_stat_database")
        return int(cursor.fetchone()[0])


def show(name, url, *, rate, burst, crowds, seconds):
    seen = transactions(url) if "PostgreSQL" in name else 0
    told = fleet(name, url, rate=rate, burst=burst, crowds=crowds, seconds=seconds)
    passed = sorted(instant for one in told for instant in one["passed"])
    if not passed or len(told) < len(crowds):
        print(f"  {name:26} failed")
        return
    trips = sum(one["sent"] for one in told) / len(passed)
    if "PostgreSQL" in name:
        trips = 2 * (transactions(url) - seen) / len(passed)  # and each is two
    cpu = sum(one["cpu"] for one in told) / len(passed) * 1e6
    line = f"  {name:26} {len(passed) / seconds:8.0f}/s, {trips:7.3f} round trips, {cpu:5.0f} us CPU"
    if rate < 100_000:
        used = len(passed) / (rate * seconds)
        fullest = worst_second(passed) / (rate + burst)
        line += f", {used:6.1%} of the rate, fullest second {fullest:5.2f} x its bound"
    if len(crowds) == 2:
        line += f", small one {len(told[1]['passed']) / len(passed):.2f}"
    print(line, flush=True)


def frozen(server, name):
    limiter = Limiter(name, requests="1000/s burst 1", share=server.url)
    with limiter.permit():
        pass
    server.freeze()
    begin = time.monotonic()
    while limiter.statistics().backend == "shared":
        limiter.try_permit()
    print(f"  a frozen backend was decided on after {time.monotonic() - begin:.2f} s")
    server.thaw()


def main():
    seconds = 2.0 if "--short" in sys.argv else 4.0
    with ValkeyServer(own=True) as valkey, PostgresServer(own=True) as postgres:
        cases = {
            "Open, 100 greenlets": {"rate": 1_000_000, "burst": 50_000, "crowds": [100]},
            "Saturated, 100 greenlets, 500/s burst 50": {"rate": 500, "burst": 50, "crowds": [100]},
            "Two processes, 90 and 10 greenlets, 200/s burst 20": {
                "rate": 200,
                "burst": 20,
                "crowds": [90, 10],
            },
            "Eight processes of 12 greenlets, 200/s burst 20": {"rate": 200, "burst": 20, "crowds": [12] * 8},
        }
        for title, case in cases.items():
            print(title)
            for name in MAKERS:
                url = postgres.dsn if "PostgreSQL" in name else valkey.url
                show(name, url, **case, seconds=seconds)
        frozen(valkey, "frozen")


if __name__ == "__main__":
    if "--child" in sys.argv:
        child(*sys.argv[2:])
    else:
        main()
