"""What do metrics and probes cost, part by part?

1. A permit, with somebody listening for the histogram of waits and without: medians of interleaved rounds.
2. A second of a process that only waits: bare, with the hub's lag and with `greenkit alive`'s file. CPU time.
3. A scrape, in the process that answers. CPU time.
4. A probe as a whole process: `greenkit alive`, an interpreter that does nothing, `celery inspect ping`.

What they cost a busy worker, as a share of its CPU: `python benchmarks/bench_celery.py --only metrics`.
Run: python benchmarks/bench_metrics.py [--quick]
"""

from __future__ import annotations

import greenkit.auto  # noqa: F401 - patches first

# isort: split
import argparse
import os
import platform
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gevent

from greenkit import Limiter, metrics
from greenkit.testing import ValkeyServer

ASK = """
import sys, urllib.request
for _ in range(int(sys.argv[2])):
    urllib.request.urlopen(sys.argv[1]).read()
"""
SHOP = """
import greenkit.auto
import os
from celery import Celery
import greenkit.celery
app = Celery("shop", broker=os.environ["BENCH_BROKER"])
greenkit.celery.install(app)
"""


def per_permit(limiter, count):
    began = time.process_time()
    for _ in range(count):
        with limiter.permit():
            pass
    return 1e6 * (time.process_time() - began) / count


def permits(rounds):
    limiter = Limiter("llm", requests="100_000_000/s")
    bare, heard = [], []
    for _ in range(rounds):
        bare.append(per_permit(limiter, 20_000))
        metrics.collector()
        heard.append(per_permit(limiter, 20_000))
        metrics.stop()
    added = statistics.median(there - here for here, there in zip(bare, heard, strict=True))
    print(f"  a permit                        {statistics.median(bare):7.2f} us, observed {added:+.2f} us")


def idle(seconds):
    began = time.process_time()
    gevent.sleep(seconds)
    return (time.process_time() - began) / seconds


def waiting(rounds, place):
    bare, lag = [], []
    for _ in range(rounds):
        bare.append(idle(1.0))
        metrics.collector()
        lag.append(idle(1.0))
        metrics.stop()
    sign = metrics.heartbeat(place)
    beat = [idle(1.0) for _ in range(rounds)]
    sign.stop()
    for name, found in (("bare", bare), ("the hub's lag", lag), ("alive's file", beat)):
        print(f"  a second of waiting, {name:13} {1e3 * statistics.median(found):4.2f} ms")


def scrapes(rounds, place, count=50):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    metrics.serve(f"127.0.0.1:{port}", directory=place)
    gevent.sleep(0.5)
    found = []
    for _ in range(rounds):
        asker = subprocess.Popen([sys.executable, "-c", ASK, f"http://127.0.0.1:{port}/metrics", str(count)])
        began = time.process_time()
        asker.wait()
        found.append((time.process_time() - began) / count)
    metrics.stop()
    print(f"  a scrape                        {1e3 * statistics.median(found):7.2f} ms")


def cpu(command, **options):
    """Return the CPU seconds of a command as a whole process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def probes(rounds, folder):
    Path(folder, "shop.py").write_text(SHOP)
    alive = [sys.executable, "-m", "greenkit", "alive", f"{folder}/alive"]
    celery = [sys.executable, "-W", "ignore", "-m", "celery", "-A", "shop"]
    with ValkeyServer(own=True) as valkey:
        env = {**os.environ, "GREENKIT_ALIVE": f"{folder}/alive", "BENCH_BROKER": valkey.broker_url}
        quiet = {"cwd": folder, "env": env, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        worker = subprocess.Popen([*celery, "worker", "-P", "gevent"], **quiet)
        try:
            while subprocess.run([*celery, "inspect", "ping"], check=False, **quiet).returncode:
                pass
            commands = {
                "python -c pass": [sys.executable, "-c", "pass"],
                "greenkit alive": alive,
                "celery inspect ping": [*celery, "inspect", "ping"],
            }
            found = {name: [] for name in commands}
            for _ in range(rounds):
                for name, command in commands.items():
                    found[name].append(cpu(command, cwd=folder, env=env))
        finally:
            worker.terminate()
            worker.wait(30)
    for name, seconds in found.items():
        print(f"  {name:31} {1e3 * statistics.median(seconds):7.0f} ms "
              f"({1e3 * min(seconds):.0f} to {1e3 * max(seconds):.0f})")  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    rounds = 3 if parser.parse_args().quick else 15
    print(
        f"Python {platform.python_version()}, gevent {gevent.__version__}, {os.cpu_count()} cores; CPU time"
    )
    with tempfile.TemporaryDirectory() as folder:
        permits(rounds)
        waiting(rounds, folder)
        scrapes(rounds, folder)
        probes(rounds, folder)


if __name__ == "__main__":
    main()
