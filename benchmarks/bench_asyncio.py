"""What does it cost to call async code from greenlets?

Each call awaits two sleeps of one length. Each way in a process of its own, ways in turn, best of three:

1. How long do N calls at once take, over the ideal (the two sleeps), what CPU does a call cost, and how long
   did the hub stand still at worst? Beside plain asyncio (one gather, no greenlets) and a native thread for
   each call (no patch).
2. What does a switch cost in a patched process that uses asyncio, and in one that does not, over one without
   the step?

Run: python benchmarks/bench_asyncio.py [--quick]
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from importlib.metadata import version

WAYS = {
    "asyncio alone, one gather": ("plain", None),
    "a native thread a call, asyncio.run": ("thread", None),
    "greenlets, asyncio.run": ("run", "auto"),
    "greenlets, async_to_sync": ("bridge", "auto"),
    "greenlets, aio.run": ("aio", "auto"),
}
SWITCHES = {
    "without the step": ("off", True),
    "with it, asyncio imported": ("on", True),
    "with it, asyncio not imported": ("on", False),
}


def child(way, count, nap):
    if way not in ("plain", "thread"):
        import greenkit.auto  # noqa: F401 - patches
    import asyncio

    async def call():
        await asyncio.sleep(nap)
        await asyncio.sleep(nap)

    gaps = [0.0]
    calls = {"plain": plain, "thread": thread}.get(way, greenlets)
    calls(way, call, 3, gaps)  # warm
    gaps[:] = [0.0]
    begin, cpu = time.perf_counter(), time.process_time()
    calls(way, call, count, gaps)
    print(json.dumps([time.perf_counter() - begin, (time.process_time() - cpu) / count, max(gaps)]))


def plain(way, call, count, gaps):
    import asyncio

    async def main():
        await asyncio.gather(*(call() for _ in range(count)))

    asyncio.run(main())


def thread(way, call, count, gaps):
    import asyncio
    import threading

    threads = [threading.Thread(target=lambda: asyncio.run(call())) for _ in range(count)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()


def greenlets(way, call, count, gaps):
    import asyncio

    import gevent
    from asgiref.sync import async_to_sync

    from greenkit import aio

    def watch():
        last = time.perf_counter()
        while True:
            gevent.sleep(0.001)
            now = time.perf_counter()
            gaps.append(now - last - 0.001)
            last = now

    ways = {
        "run": lambda: asyncio.run(call()),
        "bridge": async_to_sync(call),
        "aio": lambda: aio.run(call()),
    }
    watcher = gevent.spawn(watch)
    gevent.joinall([gevent.spawn(ways[way]) for _ in range(count)])
    watcher.kill()


def switch_child(uses_asyncio):
    import greenkit.auto  # noqa: F401 - patches

    if uses_asyncio:
        import asyncio  # noqa: F401 - installs the step
    import gevent

    gevent.sleep(0)
    rounds = []
    for _ in range(7):
        begin = time.perf_counter()
        for _ in range(20_000):
            gevent.sleep(0)
        rounds.append((time.perf_counter() - begin) / 20_000)
    print(json.dumps(min(rounds)))


def ask(*arguments, env=None):
    import os

    done = subprocess.run(
        [sys.executable, __file__, *map(str, arguments)],
        capture_output=True, text=True, check=True, env={**os.environ, **(env or {})},
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def main(quick):
    print(f"CPython {platform.python_version()}, gevent {version('gevent')}, asgiref {version('asgiref')}")
    rounds = 1 if quick else 3
    for count, nap in ((200, 0.05), (1000, 0.05), (1000, 0.5)):
        print(f"\n{count} calls at once of two sleeps of {nap} s (ideal {2 * nap:g} s)")
        print(f"{'':36} {'over the ideal':>15} {'CPU a call':>12} {'hub gap':>10}")
        best = {}
        for _ in range(rounds):
            for name, (way, _patch) in WAYS.items():
                best[name] = min(best.get(name, [9e9, 0, 0]), ask("child", way, count, nap))
        for name, (wall, cpu, gap) in best.items():
            hub = f"{gap * 1e3:7.1f} ms" if name.startswith("greenlets") else "-"
            print(f"{name:36} {wall / (2 * nap):13.2f} x {cpu * 1e3:9.3f} ms {hub:>10}")
    print("\na switch, gevent.sleep(0)")
    switches = {}
    for _ in range(rounds):
        for name, (mode, uses) in SWITCHES.items():
            got = ask("switch", int(uses), env={"GREENKIT_ASYNCIO": mode})
            switches[name] = min(switches.get(name, 9e9), got)
    for name, seconds in switches.items():
        print(f"{name:36} {seconds * 1e6:6.2f} us {seconds / switches['without the step']:6.2f} x")


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
    elif sys.argv[1:2] == ["switch"]:
        switch_child(sys.argv[2] == "1")
    else:
        main("--quick" in sys.argv)
