"""What do metrics and probes cost, part by part?

1. A permit, with somebody listening for the histogram of waits and without: medians of interleaved rounds.
2. A second of a process that only waits: bare, with the hub's lag and with `greenkit alive`'s file. CPU time.
3. A scrape: the answer of one process, and of four that share the port. CPU time.
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
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gevent

from greenkit import Limiter, metrics
from greenkit.metrics._heartbeat import Heartbeat
from greenkit.metrics._observed import Observed
from greenkit.metrics._prometheus import merged, page
from greenkit.testing import ValkeyServer

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
        observed = Observed()
        heard.append(per_permit(limiter, 20_000))
        observed.stop()
    added = statistics.median(there - here for here, there in zip(bare, heard, strict=True))
    print(f"  a permit                        {statistics.median(bare):6.2f} us, observed {added:+.2f} us")


def idle(seconds):
    began = time.process_time()
    gevent.sleep(seconds)
    return (time.process_time() - began) / seconds


def waiting(rounds, place):
    bare, lag, beat = [], [], []
    for _ in range(rounds):
        bare.append(idle(1.0))
        observed = Observed()
        lag.append(idle(1.0))
        observed.stop()
        sign = Heartbeat(place)
        beat.append(idle(1.0))
        sign.stop()
    for name, found in (("bare", bare), ("the hub's lag, ten times", lag), ("alive's file, once", beat)):
        print(f"  a second of waiting, {name:26} {1e3 * statistics.median(found):6.2f} ms")


def scrapes(rounds):
    metrics.collector()
    for processes in (1, 4):
        found = []
        for _ in range(rounds * 5):
            began = time.process_time()
            merged({str(number): page() for number in range(processes)})
            found.append(time.process_time() - began)
        print(f"  a scrape of {processes} process(es)         {1e3 * statistics.median(found):6.2f} ms")
    metrics.stop()


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
        waiting(rounds, Path(folder))
        scrapes(rounds)
        probes(rounds, folder)


if __name__ == "__main__":
    main()
