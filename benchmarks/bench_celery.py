"""Does a greenkit worker do each late-acknowledged task once, and how near is it to no queue at all?

The job: N tasks, each one LLM call of 0.5 s and one INSERT, queued before the worker starts. Every pool
runs the same task code at its best settings, against the same servers, in one run. `asyncio` is the
floor: the same calls without a queue. `calls` are the rows written; more than N is work done twice.
Options: `--tasks 2000 --concurrency 200 --full` (`--full`: RabbitMQ, early acks and prefetch 1 for all),
`--only metrics --rounds 10`: what metrics and the file of `greenkit alive` cost it, in CPU per task.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import celery
import gevent
import psycopg2
import redis

from greenkit.testing import MockLLM, PostgresServer, RabbitServer, ValkeyServer

HERE = Path(__file__).parent
POOLS = {
    "prefork": ("prefork", "0"),
    "threads": ("threads", "0"),
    "plain gevent": ("gevent", "0"),
    "greenkit": ("gevent", "1"),
}
PATIENCE = 60.0


@dataclass
class Row:
    finished: int
    calls: int
    twice: int
    span: float
    cpu: float

    def show(self, name: str, floor: Row, threads: Row | None) -> None:
        ratio = f"{self.cpu / threads.cpu:5.2f}" if threads and threads.cpu else "    -"
        print(
            f"  {name:42} {self.finished:6} {self.calls:6} {self.twice:6}   {self.span:6.1f} s "
            f"{self.span / floor.span:5.2f}   {1000 * self.cpu:5.2f} ms {ratio}", flush=True,
        )  # fmt: skip


class Bench:
    def __init__(self, options, environment, postgres, valkey):
        self.options = options
        self.environment = environment
        self.database = psycopg2.connect(postgres.dsn)
        self.database.autocommit = True
        self.redis = redis.Redis.from_url(valkey.url)

    def query(self, sql):
        with self.database.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchone() if cursor.description else None

    def clear(self):
        self.query("DROP TABLE IF EXISTS done")
        self.query("CREATE TABLE done (number int, began float8, ended float8)")
        self.redis.flushall()

    def result(self, cpu):
        finished, calls, span = self.query(
            "SELECT count(DISTINCT number), count(*), coalesce(max(ended) - min(began), 0) FROM done"
        )
        twice = self.query(
            "SELECT count(*) FROM (SELECT number FROM done GROUP BY 1 HAVING count(*) > 1) AS n"
        )[0]
        return Row(finished, calls, twice, span, cpu / max(1, finished))

    def floor(self):
        self.clear()
        run = [sys.executable, str(HERE / "rivals" / "asyncio_floor.py")]
        done = subprocess.run(run, env=self.environment, check=True, capture_output=True, text=True)
        return self.result(float(done.stdout))

    @contextlib.contextmanager
    def worker(self, pool, broker, acks, prefetch, concurrency=None, **more):
        name, greenkit = POOLS[pool]
        concurrency = str(concurrency or self.options.concurrency)
        environment = {
            **self.environment, "BENCH_BROKER": broker, "BENCH_ACKS": acks, "BENCH_PREFETCH": str(prefetch),
            "BENCH_GREENKIT": greenkit, "BENCH_CONCURRENCY": concurrency, **more,
        }  # fmt: skip
        argv = [sys.executable, "-m", "celery", "-A", "celery_tasks", "worker", "-P", name, "-c", concurrency]
        argv += ["-l", "INFO", "--without-gossip", "--without-mingle"]
        with tempfile.TemporaryFile("w+") as log:
            process = subprocess.Popen(
                argv, env=environment, cwd=HERE / "rivals", stdout=log, stderr=subprocess.STDOUT
            )
            try:
                wait(lambda: " ready." in read(log) or process.poll() is not None, 120)
                yield process, cpu_of(process.pid)
            finally:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(20)
                process.kill()
                process.wait()

    def send(self, broker, name, arguments):
        with (
            celery.Celery(broker=broker, set_as_current=False) as app,
            app.connection_for_write() as connection,
            connection.Producer() as producer,
        ):
            for one in arguments:
                app.send_task(f"celery_tasks.{name}", one, producer=producer, ignore_result=True)

    def purge(self, broker):
        """Leave nothing to this run that another did not finish; flushing Redis does not reach RabbitMQ."""
        with (
            celery.Celery(broker=broker, set_as_current=False) as app,
            app.connection_for_write() as connection,
            contextlib.suppress(connection.channel_errors),
        ):
            connection.default_channel.queue_purge("celery")

    def work(self, pool, broker, acks, prefetch, **more):
        self.clear()
        self.purge(broker)
        count = self.options.tasks
        self.send(broker, "work", [(number,) for number in range(count)])
        with self.worker(pool, broker, acks, prefetch, **more) as (process, before):
            wait(lambda: self.query("SELECT count(DISTINCT number) FROM done")[0] >= count, PATIENCE)
            cpu = cpu_of(process.pid) - before
            time.sleep(1.5)  # a second delivery would run now
        return self.result(cpu)

    def nothing(self, pool, broker, count=5000):
        self.clear()
        with self.worker(pool, broker, "late", 4, concurrency=20):
            began = time.perf_counter()
            self.send(broker, "nothing", [()] * count)
            wait(lambda: not self.redis.llen("celery") and not self.redis.hlen("unacked"), PATIENCE)
            return count / (time.perf_counter() - began)

    def flight(self, broker, count=5000):
        self.clear()
        with self.worker("greenkit", broker, "late", 1, concurrency=count) as (process, _):
            before = rss(process.pid)
            self.send(broker, "hold", [(15.0,)] * count)
            wait(lambda: self.redis.hlen("unacked") >= count, PATIENCE)
            time.sleep(1.0)
            return (rss(process.pid) - before) / count


@contextlib.contextmanager
def scraped(port, every=5.0):
    """Ask for the metrics as Prometheus does, three times as often as it does by default."""
    over = threading.Event()

    def scrape():
        while not over.wait(every):
            with contextlib.suppress(OSError):  # the worker starts or stops
                urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read()

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def metrics(bench, broker):
    """Run the job without and with metrics, in turn and in turned order; print the ratio pair by pair."""
    with socket.create_server(("127.0.0.1", 0)) as free, tempfile.TemporaryDirectory() as place:
        port = free.getsockname()[1]
        served = {
            "GREENKIT_METRICS": f"127.0.0.1:{port}", "GREENKIT_METRICS_DIR": f"{place}/metrics",
            "GREENKIT_ALIVE": f"{place}/alive",
        }  # fmt: skip
    ratios = []
    for number in range(bench.options.rounds):
        cpu = {}
        for on in (False, True) if number % 2 else (True, False):
            with scraped(port):
                row = bench.work("greenkit", broker, "late", 4, **(served if on else {}))
            assert row.finished == bench.options.tasks, row
            cpu[on] = row.cpu
        ratios.append(cpu[True] / cpu[False])
        print(f"    {1000 * cpu[False]:.3f} ms a task, with metrics {1000 * cpu[True]:.3f} ms, "
              f"{ratios[-1]:.3f} x", flush=True)  # fmt: skip
    low, middle, high = statistics.quantiles(ratios, n=4)
    spread = f"quartiles {low:.3f} to {high:.3f}, all {min(ratios):.3f} to {max(ratios):.3f}"
    print(f"  greenkit with metrics, redis: {middle:.3f} x the CPU per task ({spread}, {len(ratios)} pairs)")


def wait(condition, seconds):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)


def read(file):
    file.seek(0)
    return file.read()


def cpu_of(pid):
    """Return the CPU seconds of a process and its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return own + sum(cpu_of(int(child)) for child in children)


def rss(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def table(bench, brokers):
    print(f"  {'':42} {'done':>6} {'calls':>6} {'twice':>6}     span   /floor  CPU/task /threads")
    floor = bench.floor()
    floor.show("asyncio, no queue (the floor)", floor, None)
    for broker, url in brokers.items():
        threads = None
        for pool in bench.options.pools:
            modes = [("late", 4), ("late", 1), ("early", 4), ("early", 1)]
            for acks, prefetch in modes if bench.options.full or pool == "greenkit" else modes[:1]:
                row = bench.work(pool, url, acks, prefetch)
                threads = threads or (row if pool == "threads" else None)
                row.show(f"{pool}, {broker}, {acks} acks, prefetch {prefetch}", floor, threads)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--concurrency", type=int, default=200)
    parser.add_argument(
        "--pools", type=lambda s: s.split(","), default=["threads", "plain gevent", "greenkit"]
    )
    parser.add_argument("--brokers", type=lambda s: s.split(","), default=["redis", "rabbitmq"])
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--only", choices=["table", "nothing", "flight", "metrics"])
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    print(f"Python {platform.python_version()}, Celery {celery.__version__}, gevent {gevent.__version__}, "
          f"{os.cpu_count()} cores; {options.tasks} tasks, concurrency {options.concurrency}")  # fmt: skip
    with contextlib.ExitStack() as stack:
        postgres = stack.enter_context(PostgresServer())
        valkey = stack.enter_context(ValkeyServer())
        llm = stack.enter_context(MockLLM(latency=0.5))
        brokers = {"redis": valkey.broker_url}
        if "rabbitmq" in options.brokers and options.only in (None, "table"):
            brokers["rabbitmq"] = stack.enter_context(RabbitServer()).url
        environment = {
            **os.environ, "BENCH_LLM": f"{llm.url}/v1/chat/completions", "BENCH_POSTGRES": postgres.dsn,
            "BENCH_TASKS": str(options.tasks), "BENCH_CONCURRENCY": str(options.concurrency),
            "PYTHONWARNINGS": "ignore",
        }  # fmt: skip
        bench = Bench(options, environment, postgres, valkey)
        if options.only in (None, "table"):
            table(bench, {name: url for name, url in brokers.items() if name in options.brokers})
        if options.only in (None, "nothing"):
            for pool in options.pools:
                rate = bench.nothing(pool, valkey.broker_url)
                print(f"  {pool}, 5000 tasks that do nothing: {rate:.0f}/s", flush=True)
        if options.only == "metrics":
            metrics(bench, valkey.broker_url)
        if options.only in (None, "flight"):
            print(f"  greenkit, 5000 tasks in flight: {bench.flight(valkey.broker_url) / 1024:.1f} KiB each")


if __name__ == "__main__":
    main()
