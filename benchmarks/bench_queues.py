"""What does a task cost, beside the queues people would take instead?

The job: one HTTP call of 0.5 s, one INSERT; N tasks on Redis, 200 at once, acknowledged when they have ended
where the queue can do that. Each queue has its best settings and an environment of its own (`.venv-queues/`,
made by the first run). In turn, so many rounds, the median of each:

1. CPU time of the worker per task from the first row to the last (start-up is left out), the span of all
   calls over the ideal, the worker's memory, and the CPU time of sending all tasks, imports included.
2. What is lost, and what runs twice, when the worker is killed with -9 in the middle and started again? At
   most 200 were running. A task more is sent every 10 s, as in a live system: some queues look for what a
   dead worker had only when something new comes. Tasks that are not back after 150 s without any row, or
   600 s in all, count as lost.

`--draw` draws the CPU per task for the README and the docs.

Run: python benchmarks/bench_queues.py [--tasks 2000] [--rounds 3] [--only "greenkit;taskiq"] [--no-kills]
    [--draw]
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import platform
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import psycopg2

from greenkit.testing import MockLLM, PostgresServer, ValkeyServer

HERE = Path(__file__).parent / "rivals" / "queues"
PLACE = Path(__file__).parents[1] / ".venv-queues"
ASYNC, SYNC = ("aiohttp", "asyncpg"), ("requests", "psycopg2-binary", "psycogreen", "gevent")
GREENKIT = f"{Path(__file__).parents[1]}[celery,http,postgres,redis]"
CALL = 0.5
COLOURS = {"light": ("#1f2328", "#15803d", "#9aa0a6"), "dark": ("#e6edf3", "#3fb950", "#6e7681")}
"""Ink, greenkit's bar and the others', for each theme."""


class Queue(NamedTuple):
    module: str
    worker: tuple[str, ...]
    packages: tuple[str, ...]
    """What its environment holds."""
    green: str = "0"


def queues(concurrency):
    celery = ("python", "-m", "celery", "-A", "on_celery", "worker", "-c", concurrency, "-l", "WARNING")
    return {
        "greenkit": Queue("on_celery", (*celery, "-P", "gevent"), ("-e", GREENKIT, "hiredis"), green="1"),
        "Celery, threads": Queue(
            "on_celery",
            (*celery, "-P", "threads"),
            ("celery[redis]", "hiredis", "requests", "psycopg2-binary"),
        ),
        "taskiq": Queue(
            "on_taskiq",
            ("taskiq", "worker", "on_taskiq:broker", "--workers", "1", "--max-async-tasks", concurrency,
             "--max-prefetch", concurrency, "--log-level", "WARNING"),
            ("taskiq[orjson]", "taskiq-redis", "hiredis", "uvloop", *ASYNC),
        ),
        "SAQ": Queue("on_saq", ("saq", "on_saq.settings", "--quiet"), ("saq[redis,hiredis]", *ASYNC)),
        "arq": Queue("on_arq", ("arq", "on_arq.WorkerSettings"), ("arq", *ASYNC)),
        "dramatiq, gevent": Queue(
            "on_dramatiq",
            ("dramatiq-gevent", "on_dramatiq", "--processes", "1", "--threads", concurrency),
            ("dramatiq[redis,gevent]", "hiredis", *SYNC),
        ),
        "huey, greenlets": Queue(
            "on_huey",
            ("huey_consumer", "on_huey.huey", "-w", concurrency, "-k", "greenlet", "-d", "0.05", "-q"),
            ("huey[redis]", "hiredis", *SYNC),
        ),
    }  # fmt: skip


class Bench:
    def __init__(self, environment, postgres, valkey):
        self.environment = environment
        self.valkey = valkey
        self.database = psycopg2.connect(postgres.dsn)
        self.database.autocommit = True

    def query(self, sql):
        with self.database.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchone() if cursor.description else None

    def rows(self, below):
        return self.query(f"SELECT count(DISTINCT number) FROM done WHERE number < {below}")[0]

    def clear(self):
        self.query("DROP TABLE IF EXISTS done")
        self.query("CREATE TABLE done (number int, began float8, ended float8)")
        import redis

        with redis.Redis.from_url(self.valkey.url) as client:
            client.flushall()

    def run(self, name, queue):
        """Return how to start a program in the queue's environment."""
        place = PLACE / name.split(",")[0].lower() / "bin"
        if not (place / "ready").exists():
            uv = shutil.which("uv") or str(Path(sys.executable).parent / "uv")
            subprocess.run(
                [uv, "venv", "-q", "--clear", "--python", sys.executable, place.parent], check=True
            )
            python = ["--python", str(place / "python")]
            subprocess.run([uv, "pip", "install", "-q", *python, *queue.packages], check=True)
            (place / "ready").touch()
        environment = {
            **self.environment,
            "BENCH_GREENKIT": queue.green,
            "BENCH_PUBLISH": "0",
            "PATH": f"{place}:{os.environ['PATH']}",
        }
        return place, environment

    def publish(self, name, queue, numbers):
        place, environment = self.run(name, queue)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        code = f"import {queue.module} as queue; queue.publish({numbers!r})"
        environment["BENCH_PUBLISH"] = "1"
        subprocess.run([place / "python", "-c", code], env=environment, cwd=HERE, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    @contextlib.contextmanager
    def worker(self, name, queue):
        place, environment = self.run(name, queue)
        process = subprocess.Popen(
            [place / queue.worker[0], *queue.worker[1:]],
            env=environment,
            cwd=HERE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            kill(process)

    def cost(self, name, queue, count):
        self.clear()
        sending = self.publish(name, queue, range(count))
        with self.worker(name, queue) as process:
            wait(lambda: self.rows(count) > 0, 60)
            first, before = self.rows(count), cpu_of(process.pid)
            wait(lambda: self.rows(count) >= count, 120)
            cpu, memory = cpu_of(process.pid) - before, rss_of(process.pid)
        done, span = self.query("SELECT count(DISTINCT number), max(ended) - min(began) FROM done")
        assert done == count, f"{name} did {done} of {count} tasks"
        return cpu / (count - first) * 1000, span, sending, memory / 2**20

    def killed(self, name, queue, count):
        self.clear()
        self.publish(name, queue, range(count))
        with self.worker(name, queue) as process:
            wait(lambda: self.rows(count) > count * 0.4, 60)
            kill(process)
        with self.worker(name, queue):
            more, sent = itertools.count(count), time.monotonic()
            end, quiet, seen = sent + 600, sent, 0
            while (rows := self.rows(count)) < count and time.monotonic() < min(end, quiet + 150):
                if rows > seen:
                    quiet, seen = time.monotonic(), rows
                if time.monotonic() - sent > 10:
                    self.publish(name, queue, [next(more)])
                    sent = time.monotonic()
                time.sleep(0.2)
            time.sleep(2)
        done, rows = self.query(f"SELECT count(DISTINCT number), count(*) FROM done WHERE number < {count}")
        return count - done, rows - done


def kill(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait(condition, seconds):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)


def below(pid):
    yield pid
    with contextlib.suppress(FileNotFoundError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            yield from below(int(child))


def cpu_of(pid):
    ticks = 0
    for one in below(pid):
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def rss_of(pid):
    pages = sum(int(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in below(pid))
    return pages * os.sysconf("SC_PAGE_SIZE")


def version_of(place, name):
    package = name.split(",")[0].lower()
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run(
        [place / "python", "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--concurrency", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", type=lambda text: text.split(";"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--no-kills", action="store_true")
    parser.add_argument("--draw", action="store_true")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no worker is left running
    if options.quick:
        options.tasks, options.rounds = 400, 1
    ours = {
        name: queue
        for name, queue in queues(str(options.concurrency)).items()
        if not options.only or name in options.only
    }
    ideal = options.tasks / options.concurrency * CALL
    print(f"Python {platform.python_version()}, {options.tasks} tasks, {options.concurrency} at once, "
          f"median of {options.rounds} rounds; ideal span {ideal:g} s", flush=True)  # fmt: skip
    with PostgresServer() as postgres, ValkeyServer(tcp=True) as valkey, MockLLM(latency=CALL) as llm:
        environment = {
            **os.environ,
            "BENCH_LLM": f"{llm.url}/v1/chat/completions",
            "BENCH_POSTGRES": postgres.dsn,
            "BENCH_REDIS": valkey.broker_url,
            "BENCH_CONCURRENCY": str(options.concurrency),
            "PYTHONWARNINGS": "ignore",
            "PYTHONPATH": str(HERE),
        }
        bench = Bench(environment, postgres, valkey)
        costs = table(bench, ours, options, ideal)
    if options.draw:
        for theme in COLOURS:
            file = Path(__file__).parents[1] / "docs" / "_static" / f"queues-{theme}.svg"
            file.write_text(draw(costs, options, theme), encoding="utf-8")


def table(bench, ours, options, ideal):
    """Print a line for each queue; return the CPU of a task, in ms, by the queue's name."""
    costs = {name: [] for name in ours}
    for _ in range(options.rounds):
        for name, queue in ours.items():
            costs[name].append(bench.cost(name, queue, options.tasks))
    base = next((name for name in ("taskiq", *ours) if name in ours), "")
    least = statistics.median(row[0] for row in costs[base])
    print(f"  {'':26}{'CPU/task':>10}{'/' + base:>10}{'span/ideal':>12}{'sending':>10}{'memory':>10}", end="")
    print("" if options.no_kills else "   after -9: lost  twice")
    for name, queue in ours.items():
        cpu, span, sending, memory = (statistics.median(column) for column in zip(*costs[name], strict=True))
        place, _ = bench.run(name, queue)
        label = f"{name} {version_of(place, name)}"
        print(f"  {label:26}{cpu:7.2f} ms{cpu / least:10.2f}{span / ideal:12.2f}"
              f"{sending:8.2f} s{memory:6.0f} MiB",
              end="", flush=True)  # fmt: skip
        if not options.no_kills:
            lost, twice = bench.killed(name, queue, options.tasks)
            print(f"{lost:16}{twice:7}", end="")
        print(flush=True)
    return {name: statistics.median(row[0] for row in rows) for name, rows in costs.items()}


def draw(costs, options, theme):
    """Return the chart: a bar for each queue, the cheapest first."""
    ink, ours, others = COLOURS[theme]
    scale, height = 440 / max(costs.values()), 42 + 30 * len(costs)
    title = f"CPU per task: one HTTP call of {CALL:g} s and one INSERT, {options.concurrency} at once, Redis"
    font = 'font-family="system-ui, sans-serif" font-size="14"'
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 {height}" role="img" {font} fill="{ink}">'
    ]
    out.append(f'<text x="0" y="20" font-size="15" font-weight="600">{title}</text>')
    for at, (name, cost) in enumerate(sorted(costs.items(), key=lambda item: item[1])):
        top, width = 38 + 30 * at, cost * scale
        colour = ours if name == "greenkit" else others
        out.append(f'<text x="0" y="{top + 16}">{name}</text>')
        out.append(f'<rect x="150" y="{top}" width="{width:.1f}" height="22" rx="3" fill="{colour}"/>')
        out.append(f'<text x="{158 + width:.1f}" y="{top + 16}" font-size="12">{cost:.2f} ms</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


if __name__ == "__main__":
    main()
