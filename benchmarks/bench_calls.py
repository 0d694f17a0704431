"""What becomes of 2,000 calls under plain gevent, threads and greenkit, when the server has a quota?

Each call is a Celery task: an answer of half a second from a server that lets 50 a second through,
and a row. A call that is refused is tried again after the time the answer names, ten times at most.
greenkit's worker has a limiter; the others have Celery's `self.retry(countdown=…)`. `--draw` draws
docs/_static/calls-light.svg and calls-dark.svg.
Options: `--calls 2000 --concurrency 200 --rate 50/s --broker redis --draw`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import celery
import psycopg2

from greenkit.testing import MockLLM, PostgresServer, RabbitServer, ValkeyServer

HERE = Path(__file__).parent
POOLS = {"plain gevent": ("gevent", "0"), "threads": ("threads", "0"), "greenkit": ("gevent", "1")}
PATIENCE = 120.0
COLOURS = {  # text, grey of the ideal, bar
    "light": ("#1f2328", "#9aa0a6", {"plain gevent": "#c2410c", "threads": "#6b7280", "greenkit": "#15803d"}),
    "dark": ("#e6edf3", "#7d8590", {"plain gevent": "#fb923c", "threads": "#9ca3af", "greenkit": "#4ade80"}),
}


def run(options, pool, broker, environment, llm, database):
    """Return (answered, seconds, refused) of one pool."""
    with database.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS done")
        cursor.execute("CREATE TABLE done (number int)")
    llm.reset()
    name, greenkit = POOLS[pool]
    count = str(options.concurrency)
    environment = {**environment, "BENCH_GREENKIT": greenkit, "BENCH_CONCURRENCY": count}
    argv = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "limited_calls",
        "worker",
        "-P",
        name,
        "-c",
        count,
        "-l",
        "INFO",
    ]
    with tempfile.TemporaryFile("w+") as log:
        worker = subprocess.Popen(argv, env=environment, cwd=HERE / "rivals", stdout=log, stderr=log)
        try:
            wait(lambda: " ready." in read(log), 60)
            began = time.monotonic()
            send(broker, options.calls)
            wait(lambda: rows(database) >= options.calls or worker.poll() is not None, PATIENCE)
            return rows(database), time.monotonic() - began, llm.stats()["rejected"]
        finally:
            worker.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.wait(20)
            worker.kill()
            worker.wait()


def send(broker, count):
    with celery.Celery(broker=broker, set_as_current=False) as app, app.connection_for_write() as connection:
        with contextlib.suppress(connection.channel_errors):
            connection.default_channel.queue_purge("celery")
        with connection.Producer() as producer:
            for number in range(count):
                app.send_task("limited_calls.call", (number,), producer=producer, ignore_result=True)


def rows(database):
    with database.cursor() as cursor:
        cursor.execute("SELECT count(DISTINCT number) FROM done")
        return cursor.fetchone()[0]


def read(log):
    log.seek(0)
    return log.read()


def wait(condition, seconds):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)


def draw(results, ideal, options, theme):
    """Return the chart: a bar for each pool, the ideal as a grey line."""
    ink, grey, bars = COLOURS[theme]
    scale = 400 / max(seconds for _, seconds, _ in results.values())
    title = f"{options.calls:,} calls of 0.5 s, {options.concurrency} at once, quota {options.rate}"
    font = 'font-family="system-ui, sans-serif" font-size="14"'
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 220" role="img" {font} fill="{ink}">']
    out.append(f'<text x="0" y="20" font-size="15" font-weight="600">{title}</text>')
    for at, (pool, (done, seconds, refused)) in enumerate(results.items()):
        top, width = 44 + 46 * at, seconds * scale
        out.append(f'<text x="0" y="{top + 18}">{pool}</text>')
        out.append(f'<rect x="110" y="{top}" width="{width:.1f}" height="26" rx="3" fill="{bars[pool]}"/>')
        told = [f"{seconds:.1f} s", f"{refused:,} calls refused"]
        if done < options.calls:
            told = [f"{options.calls - done:,} never answered", told[1]]
        for line, text in enumerate(told):
            y = top + 11 + 14 * line
            out.append(f'<text x="{118 + width:.1f}" y="{y}" font-size="12">{text}</text>')
    x = 110 + ideal * scale
    out.append(f'<line x1="{x:.1f}" y1="38" x2="{x:.1f}" y2="186" stroke="{grey}" stroke-width="2"/>')
    note = f'x="{x:.1f}" y="204" font-size="12" fill="{grey}" text-anchor="middle"'
    out.append(f"<text {note}>what the quota allows: {ideal:.1f} s</text></svg>")
    return "\n".join(out) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--concurrency", type=int, default=200)
    parser.add_argument("--rate", default="50/s")
    parser.add_argument("--broker", choices=["redis", "rabbitmq"], default="redis")
    parser.add_argument("--draw", action="store_true")
    options = parser.parse_args()
    per_second = float(options.rate.partition("/")[0])
    ideal = (options.calls - per_second) / per_second + 0.5  # the burst is a second's worth
    with contextlib.ExitStack() as stack:
        postgres = stack.enter_context(PostgresServer())
        if options.broker == "redis":
            broker = stack.enter_context(ValkeyServer()).broker_url
        else:
            broker = stack.enter_context(RabbitServer()).url
        llm = stack.enter_context(MockLLM(requests=options.rate, latency=0.5))
        database = psycopg2.connect(postgres.dsn)
        database.autocommit = True
        environment = {
            **os.environ, "BENCH_BROKER": broker, "BENCH_LLM": f"{llm.url}/v1/chat/completions",
            "BENCH_POSTGRES": postgres.dsn, "BENCH_RATE": options.rate, "PYTHONWARNINGS": "ignore",
        }  # fmt: skip
        results = {}
        print(f"{options.calls} calls, {options.concurrency} at once, quota {options.rate}, {options.broker}")
        for pool in POOLS:
            results[pool] = run(options, pool, broker, environment, llm, database)
            done, seconds, refused = results[pool]
            told = f"{done:6} answered {seconds:7.1f} s {seconds / ideal:5.2f} x ideal {refused:6} refused"
            print(f"  {pool:14} {told}", flush=True)
    print(f"  {'the quota':14} {options.calls:6}           {ideal:6.1f} s")
    if options.draw:
        for theme in COLOURS:
            file = HERE.parent / "docs" / "_static" / f"calls-{theme}.svg"
            file.write_text(draw(results, ideal, options, theme), encoding="utf-8")


if __name__ == "__main__":
    main()
