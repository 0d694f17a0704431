"""Who sees a blocked hub, and what does looking cost?

Four questions, each side by side with what else there is: gevent's own monitor thread (its period is its
limit), and blockbuster, which wraps the functions it knows and raises. It watches asyncio loops only; here
its wrappers are told that a greenlet is a running loop, before gevent patches: its best case.

1. Of 60 blocks at random phases, how many are seen, per length? Watchdog and monitor watch the same blocks.
2. How many false reports come from a fair, busy and then idle hub?
3. What does each add to bare switches and to a socket ping-pong? CPU time, best of interleaved rounds. And to
   a process that only waits?
4. Which kinds of blocking call does each see at all?

Run: python benchmarks/bench_watchdog.py [--quick]
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

LIMIT = 0.1
LENGTHS = (1.1, 1.5, 2.5)
MODES = ("nothing", "watchdog", "monitor", "forbid", "blockbuster")
RIVALS = Path(__file__).parent / "rivals"


# -- in a child: one process per mode, patched as its rival needs it --------------


def child(mode, what, amount):
    """Watch this process by `mode` and measure `what`; print the answer as JSON."""
    sys.path.insert(0, str(RIVALS))
    import blocking_cases  # takes its stale names before anybody patches
    import watchers

    watcher = watchers.start(mode, LIMIT)
    if what == "cost":
        answer = {"switches": switches(amount), "ping-pong": ping_pong(amount // 4), "idle": idle(1.0)}
    elif what == "kinds":
        answer = {name: watcher.sees(call) for name, call in blocking_cases.CASES.items()}
    else:
        answer = phases(watcher, amount)
    watcher.stop()
    print(json.dumps(answer), flush=True)
    os._exit(0)  # what blocked may have left threads behind


def switches(count):
    import gevent

    def turn():
        for _ in range(count // 2):
            gevent.sleep(0)

    begin = time.process_time()
    gevent.joinall([gevent.spawn(turn) for _ in range(2)])
    return time.process_time() - begin


def ping_pong(count):
    import socket

    import gevent

    ours, theirs = socket.socketpair()

    def echo():
        for _ in range(count):
            theirs.sendall(theirs.recv(1))

    other = gevent.spawn(echo)
    begin = time.process_time()
    for _ in range(count):
        ours.sendall(b"x")
        ours.recv(1)
    other.join()
    return time.process_time() - begin


def idle(seconds):
    """Return the share of a processor an idle process takes."""
    import gevent

    begin, wall = time.process_time(), time.monotonic()
    gevent.sleep(seconds)
    return (time.process_time() - begin) / (time.monotonic() - wall)


def phases(watchers, count):
    """Return what watchers of the same blocks saw, as {name: {length: seen}}, and their false reports."""
    import random

    import gevent
    from gevent.monkey import get_original

    hold, dice = get_original("time", "sleep"), random.Random(7)
    seen = {name: {} for name in watchers.names}
    for length in LENGTHS:
        watchers.forget()
        for number in range(count):
            watchers.now = number
            hold(length * LIMIT)
            gevent.sleep(LIMIT * (0.6 + dice.random()))
        for name, counts in seen.items():
            counts[length] = len(watchers.seen(name))
    watchers.forget()
    end = time.monotonic() + 2
    while time.monotonic() < end:
        sum(range(2000))
        gevent.sleep(0)
    gevent.sleep(2)
    return {"seen": seen, "false": {name: len(watchers.seen(name)) for name in seen}}


# -- in the parent ----------------------------------------------------------------


def run(mode, what, amount):
    command = [sys.executable, __file__, "--child", mode, what, str(amount)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        raise SystemExit(f"{mode} {what} failed\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def costs(rounds, count):
    """Return {mode: {what: least}} over interleaved rounds."""
    least = {mode: {} for mode in MODES}
    for _ in range(rounds):
        for mode in MODES:
            for what, value in run(mode, "cost", count).items():
                least[mode][what] = min(value, least[mode].get(what, value))
    return least


def main(quick):
    import gevent

    print(f"Python {platform.python_version()}, gevent {gevent.__version__}, {platform.machine()}")
    blocks = 12 if quick else 60
    answer = run("both", "phases", blocks)
    print(
        f"  blocks seen of {blocks}, limit {LIMIT * 1000:g} ms      " + "".join(f"{x:>6}x" for x in LENGTHS)
    )
    for name, seen in answer["seen"].items():
        numbers = "".join(f"{seen[str(length)]:>7}" for length in LENGTHS)
        print(f"    {name:36}{numbers}   {answer['false'][name]} false in 4 s, busy and idle")
    least = costs(*((2, 20_000) if quick else (7, 100_000)))
    base = least["nothing"]
    print("  CPU, over a process nobody watches     switches  ping-pong      idle")
    for mode in MODES[1:]:
        ratios = "".join(f"{least[mode][what] / base[what]:>9.2f} x" for what in ("switches", "ping-pong"))
        print(f"    {mode:34}{ratios}   {(least[mode]['idle'] - base['idle']) * 100:>6.2f} %")
    kinds = {mode: run(mode, "kinds", 0) for mode in MODES[1:]}
    print("  sees                        " + "".join(f"{mode:>13}" for mode in kinds))
    for case in next(iter(kinds.values())):
        print(f"    {case:26}" + "".join(f"{seen[case]:>13}" for seen in kinds.values()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    main(quick="--quick" in sys.argv)
