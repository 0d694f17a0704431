"""Start gunicorn and a worker under one limit; ask, stream, go away in the middle, stop in the middle."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from celery import Celery
from prometheus_client.parser import text_string_to_metric_families

from greenkit.testing import MockLLM, ValkeyServer

HERE = Path(__file__).resolve().parent
GUNICORN = [sys.executable, "-m", "gunicorn", "--log-level", "warning"]
WORKER = [
    sys.executable,
    "-m",
    "celery",
    "-A",
    "tasks",
    "worker",
    "-P",
    "gevent",
    "-c",
    "50",
    "-l",
    "WARNING",
]


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def scrape(name, **labels):
    """Return the sum over all web processes."""
    with contextlib.suppress(OSError):
        text = urllib.request.urlopen("http://" + os.environ["GREENKIT_METRICS"] + "/metrics").read().decode()
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())
    return 0


def until(condition):
    end = time.monotonic() + 60
    while not condition():
        if time.monotonic() > end:
            raise SystemExit("it took too long")
        time.sleep(0.05)


def ask(url, prompt):
    words = json.dumps({"prompt": prompt}).encode()
    request = urllib.request.Request(f"{url}/ask", words, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["answer"]


def events(url):
    """Yield each event's word as it comes; closing it closes the connection."""
    with urllib.request.urlopen(f"{url}/events?prompt=tell", timeout=60) as answer:
        for line in answer:
            if line.startswith(b'data: "'):
                yield json.loads(line[6:])


def show(url, llm, server):
    until(lambda: scrape("greenkit_hub_lag_seconds_count"))
    with Celery("client", broker=os.environ["BROKER_URL"]) as client, ThreadPoolExecutor(10) as threads:
        for number in range(30):
            client.send_task("tasks.ask", (f"task {number}",))
        answers = list(threads.map(lambda number: ask(url, f"request {number}"), range(10)))
    until(lambda: llm.stats()["ok"] == 40)
    print(f"one quota     {len(answers)} requests and 30 tasks answered, {llm.stats()['rejected']} refused")
    told = events(url)
    next(told)
    held = scrape("greenkit_limiter_in_use") > 0
    print(f"events        {1 + len(list(told))} words; the first came while the call went on: {held}")
    told = events(url)
    next(told)
    told.close()
    until(lambda: scrape("shop_streams_total", end="client left"))
    until(lambda: scrape("greenkit_limiter_in_use") == 0)
    print("gone          the stream was ended, its permit is back")
    told = events(url)
    next(told)
    server.terminate()
    print(f"stop          {1 + len(list(told))} words, whole after SIGTERM; status {server.wait(30)}")


def main():
    with tempfile.TemporaryDirectory() as place, ValkeyServer(own=True) as valkey, MockLLM(
        requests="600/min burst 20", latency=3.0
    ) as llm:  # fmt: skip
        os.environ.update({
            "BROKER_URL": valkey.broker_url, "REDIS_URL": valkey.url, "LLM_URL": llm.url,
            "GREENKIT_METRICS": f"127.0.0.1:{free_port()}", "GREENKIT_METRICS_DIR": place,
        })  # fmt: skip
        port = free_port()
        own = {name: value for name, value in os.environ.items() if not name.startswith("GREENKIT")}
        worker = subprocess.Popen(WORKER, cwd=HERE, env=own, stdout=sys.stderr)
        server = subprocess.Popen([*GUNICORN, "--bind", f"127.0.0.1:{port}"], cwd=HERE)
        try:
            show(f"http://127.0.0.1:{port}", llm, server)
        finally:
            for process in (server, worker):
                process.terminate()
                process.wait(30)


if __name__ == "__main__":
    main()
