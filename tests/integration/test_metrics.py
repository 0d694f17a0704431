"""Metrics and probes of a Celery worker and of gunicorn's gevent workers, beside what really happened."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg2
import pytest

from greenkit.testing import MockLLM, PostgresServer, ValkeyServer
from tests.integration.celery_worker import Worker
from tests.process.scrape import get

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def number(port: int, sample: str) -> float | None:
    found = re.search(rf"^{re.escape(sample)} (\S+)$", get(port, "/metrics")[1], re.MULTILINE)
    return float(found[1]) if found else None


def alive(directory: Path) -> int:
    command = [sys.executable, "-m", "greenkit", "alive", "--max-age", "5", str(directory)]
    return subprocess.run(command, capture_output=True, check=False, timeout=30).returncode


def test_a_worker_shows_its_tasks_and_whether_it_consumes(tmp_path: Path, port: int) -> None:
    """Counts are the truth; a broker that is away is no dead worker; a worker that stops is not ready."""
    tasks = 'greenkit_pool_tasks{pool="celery",process="0",state="%s"}'
    env = {
        "GREENKIT_METRICS": f"127.0.0.1:{port}",
        "GREENKIT_METRICS_DIR": str(tmp_path / "metrics"),
        "GREENKIT_ALIVE": str(tmp_path / "alive"),
    }
    with (
        ValkeyServer(own=True) as broker,
        ValkeyServer(own=True) as notes,
        Worker(broker.broker_url, notes.broker_url, notes.url, tmp_path / "worker") as worker,
        worker.running("-P", "gevent", "-c", "4", **env),
    ):
        worker.wait(lambda: get(port, "/readyz") == (200, "ok\n"))
        for index in range(10):
            worker.send("count", index, 0.01)
        worker.wait(lambda: number(port, 'greenkit_pool_tasks_ended_total{pool="celery",process="0"}') == 10)
        for index in range(6):
            worker.send("count", 100 + index, 2.0)
        worker.wait(lambda: number(port, tasks % "running") == 4)
        assert number(port, 'greenkit_pool_slots{pool="celery",process="0"}') == 4
        broker.kill()
        worker.wait(lambda: get(port, "/readyz") == (503, "process 0: celery: the broker is away\n"))
        assert get(port, "/healthz") == (200, "ok\n")
        assert alive(tmp_path / "alive") == 0
        broker.start()
        worker.wait(lambda: get(port, "/readyz") == (200, "ok\n"))
        worker.send("count", 200, 4.0)
        worker.wait(lambda: number(port, tasks % "running") == 1)
        worker.process.send_signal(signal.SIGTERM)
        worker.wait(lambda: get(port, "/readyz") == (503, "process 0: celery: the worker stops\n"))
        assert worker.process.wait(30) == 0


TASKS = 150
TRUTH = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'metered'"


def test_under_load_a_scrape_lies_between_what_the_servers_counted(
    worker: Worker, greenkit_postgres: PostgresServer, tmp_path: Path, port: int
) -> None:
    """Between two looks at its server while tasks run and are refused, and equal to it at the end."""
    env = {
        "GREENKIT_METRICS": f"127.0.0.1:{port}",
        "GREENKIT_METRICS_DIR": str(tmp_path / "metrics"),
        "TEST_DSN": psycopg2.extensions.make_dsn(greenkit_postgres.dsn, application_name="metered"),
    }
    with (
        MockLLM(requests="40/s burst 5", latency=0.05) as llm,
        contextlib.closing(psycopg2.connect(greenkit_postgres.dsn)) as database,
        worker.running(
            "-P", "gevent", "-c", "20", app="metered_app", TEST_LLM=f"{llm.url}/v1/chat/completions", **env
        ),
    ):
        database.autocommit = True

        def look() -> dict[str, float]:
            queued = worker.notes.llen("celery") + worker.notes.hlen("unacked")
            stats = llm.stats()
            with database.cursor() as cursor:
                cursor.execute(TRUTH)
                return {**stats, "acknowledged": TASKS - queued, "connections": cursor.fetchone()[0]}

        def scrape() -> dict[str, float]:
            text = get(port, "/metrics")[1]
            labels = r'(?:limiter="llm"|pool="(?:celery|shop)"),process="0"(?:,state="(\w+)")?'
            found = re.findall(rf"^greenkit_(\w+)\{{{labels}\}} (\S+)$", text, re.MULTILINE)
            return {f"{name} {state}".strip(): float(value) for name, state, value in found}

        worker.wait(lambda: get(port, "/readyz") == (200, "ok\n"))
        for number in range(TASKS):
            worker.app.send_task("metered_app.work", (number,))
        refused_at: set[float] = set()
        while (before := look())["acknowledged"] < TASKS:
            told, after = scrape(), look()
            # A permit is given before its call, and held until the answer has come.
            assert before["calls"] <= told["limiter_granted_total"], (before, told)
            assert told["limiter_granted_total"] - told["limiter_in_use"] <= after["calls"], (told, after)
            assert told["limiter_rejected_total"] <= after["rejected"], (told, after)
            # A task has ended before it is acknowledged.
            assert before["acknowledged"] <= told["pool_tasks_ended_total"] <= TASKS, (before, told)
            assert told["pool_tasks running"] <= told["pool_slots"] == 20
            assert told["connections_open"] <= told["connections_limit"] == 3
            refused_at.add(told["limiter_rejected_total"])
        worker.wait(lambda: scrape()["pool_tasks running"] == 0)
        told, truth = scrape(), look()
        assert len(refused_at) > 1, "the load was over before it was looked at"
        assert told["limiter_granted_total"] == truth["calls"] == truth["ok"] + truth["rejected"]
        assert told["limiter_rejected_total"] == truth["rejected"] > 0
        assert told["limiter_in_use"] == told["limiter_waiting"] == 0
        assert told["pool_tasks_ended_total"] == truth["acknowledged"] == TASKS == truth["ok"]
        assert told["connections_open"] == truth["connections"] > 0
        assert told["connections_in_use"] == 0


APP = """
import greenkit.auto
import os, gevent
from gevent.monkey import get_original
from greenkit import Limiter
llm = Limiter("llm", requests="1000/s")

def application(environ, start):
    if environ["PATH_INFO"] == "/block":
        get_original("time", "sleep")(8)
    with llm.permit():
        gevent.sleep(0.01)
    start("200 OK", [])
    return [b"ok"]
"""


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["", "preload"])
def test_gunicorns_workers_answer_on_one_port(tmp_path: Path, port: int, preload: tuple[str, ...]) -> None:
    """Their requests add up, a worker that is killed is replaced under its number, a blocked one is named."""
    pytest.importorskip("gunicorn")
    (tmp_path / "shop.py").write_text(APP)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GREENKIT")}
    env = {**kept, "GREENKIT_METRICS": str(port), "GREENKIT_METRICS_DIR": str(tmp_path / "metrics")}
    address = tmp_path / "shop.sock"
    words = ["-m", "gunicorn", "-k", "gevent", "-w", "2", "--bind", f"unix:{address}", *preload, "shop"]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen([sys.executable, *words], cwd=tmp_path, env=env, stdout=log, stderr=log)

    def ask(path: str = "/") -> None:
        with socket.socket(socket.AF_UNIX) as plug:
            plug.connect(str(address))
            plug.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            while plug.recv(1000):
                pass

    def counted() -> dict[str, float]:
        sample = r'^greenkit_limiter_granted_total\{limiter="llm",process="(\d+)"\} (\S+)$'
        return {n: float(v) for n, v in re.findall(sample, get(port, "/metrics")[1], re.MULTILINE)}

    def until(condition, what: str) -> None:
        end = time.monotonic() + 30
        while not condition():
            assert server.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < end, what + (tmp_path / "log").read_text()[-3000:]
            time.sleep(0.05)

    everybody = (
        2  # the master looks after them, and has loaded the application with --preload: it is not asked
    )
    try:
        until(lambda: len(counted()) == everybody, "not all answer")
        for _ in range(20):
            ask()
        until(lambda: sum(counted().values()) == 20, "requests were not counted")
        if not preload:  # a patched master does not hear of a worker's death (gunicorn 27)
            children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
            os.kill(int(children[0]), signal.SIGKILL)
            until(lambda: sorted(counted().values())[:1] == [0.0], "its heir is not seen")
            until(lambda: set(counted()) == {"0", "1"}, "numbers grow")
        blocker = threading.Thread(target=ask, args=("/block",))
        blocker.start()
        until(lambda: get(port, "/healthz", timeout=3)[0] in {0, 503}, "a blocked worker was called healthy")
        blocker.join()
        until(lambda: get(port, "/healthz")[0] == 200, "it did not recover")
    finally:
        server.terminate()
        server.wait(30)
