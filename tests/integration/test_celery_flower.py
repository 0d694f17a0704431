"""Flower, by its HTTP API, on greenkit workers: it sees what they do, and they do what it says."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import requests

from tests.architecture.floors import ROOT
from tests.integration.celery_worker import PROGRAMS, Worker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from greenkit.testing import ValkeyServer

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(
        subprocess.run([sys.executable, "-m", "uv", "--version"], check=False, capture_output=True).returncode
        != 0,
        reason="uv is not in this environment",
    ),
]


@pytest.fixture
def python(tmp_path: Path) -> str:
    """Make an environment with Flower; its plugin would disturb every other test in the tests' own."""
    place = tmp_path / "environment"
    found = str(place / "bin" / "python")
    uv = [sys.executable, "-m", "uv", "--quiet"]
    subprocess.run([*uv, "venv", "--python", sys.executable, str(place)], check=True)
    packages = ["flower", "celery[redis]", "requests", "-e", str(ROOT), "-c", str(ROOT / "constraints.txt")]
    made = subprocess.run(
        [*uv, "pip", "install", "--python", found, *packages], check=False, capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"Flower cannot be installed here: {made.stderr[-300:]}")
    return found


class Flower:
    """A Flower beside a worker, in an environment of its own."""

    def __init__(self, worker: Worker, python: str) -> None:
        self.worker = worker
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/api"
        self.argv = [python, "-m", "celery", "-A", "celery_app", "flower"]
        self.argv += ["--address=127.0.0.1", f"--port={port}", "--inspect_timeout=1000"]

    @contextlib.contextmanager
    def running(self) -> Iterator[Flower]:
        environment = {**self.worker.environment, "FLOWER_UNAUTHENTICATED_API": "true"}
        log = self.worker.log.with_name("flower.log")
        with log.open("wb") as said:
            process = subprocess.Popen(self.argv, cwd=PROGRAMS, env=environment, stdout=said, stderr=said)
        try:
            self.worker.wait(lambda: process.poll() is not None or self.answers())
            assert process.poll() is None, log.read_text()
            yield self
        finally:
            process.kill()
            process.wait(10)

    def answers(self) -> bool:
        with contextlib.suppress(OSError):
            return requests.get(f"{self.url}/workers", timeout=5).ok
        return False

    def see(self, path: str) -> Any:
        answer = requests.get(f"{self.url}/{path}", timeout=20)
        return answer.json() if answer.ok else {}

    def tell(self, path: str, **options: object) -> requests.Response:
        return requests.post(f"{self.url}/{path}", params=options, timeout=20)


def stats(worker: Worker, name: str) -> Any:
    return worker.app.control.inspect([name], timeout=5, limit=1).stats()[name]


def test_flower_sees_and_steers_the_workers(
    greenkit_valkey: ValkeyServer, tmp_path: Path, python: str
) -> None:
    """Workers are listed; grow, shrink, autoscale, limits and terminate are answered with ok, and done."""
    url = greenkit_valkey.broker_url
    for name in ("plain", "scaled"):
        (tmp_path / name).mkdir()
    with Worker(url, url, greenkit_valkey.url, tmp_path / "plain") as worker:
        worker.notes.flushdb()
        scaled = Worker(url, url, greenkit_valkey.url, tmp_path / "scaled")
        with (
            worker.running("-P", "gevent", "-c", "3", "-E", "-n", "plain@here"),
            scaled.running("-P", "gevent", "--autoscale=4,1", "-n", "scaled@here", "-Q", "nobody"),
            Flower(worker, python).running() as flower, scaled,
        ):  # fmt: skip
            worker.wait(lambda: len(flower.see("workers?refresh=1")) == 2)
            seen = flower.see("workers")
            assert sorted(seen) == ["plain@here", "scaled@here"]
            assert seen["plain@here"]["stats"]["pool"]["max-concurrency"] == 3
            steer(flower, worker)
            limit_and_terminate(flower, worker)
            assert scaled.end() == worker.end() == 0


def steer(flower: Flower, worker: Worker) -> None:
    assert flower.tell("worker/pool/grow/plain@here", n=3).ok
    assert stats(worker, "plain@here")["pool"]["max-concurrency"] == 6
    assert flower.tell("worker/pool/shrink/plain@here", n=4).ok
    assert stats(worker, "plain@here")["pool"]["max-concurrency"] == 2
    refused = flower.tell("worker/pool/shrink/plain@here", n=2)
    assert (refused.status_code, "cannot shrink by 2" in refused.text) == (403, True)
    assert flower.tell("worker/pool/autoscale/scaled@here", min=2, max=9).ok
    scaler = stats(worker, "scaled@here")["autoscaler"]
    assert (scaler["min"], scaler["max"]) == (2, 9)


def limit_and_terminate(flower: Flower, worker: Worker) -> None:
    nap = "celery_app.nap"
    assert flower.tell(f"task/timeout/{nap}", workername="plain@here", hard=0.5, soft=0.4).ok
    assert "TimeLimitExceeded" in repr(worker.send("nap", 60).get(timeout=20, propagate=False))
    assert flower.tell(f"task/timeout/{nap}", workername="plain@here", hard=50, soft=40).ok
    doomed = worker.send("nap", 60)
    worker.wait(lambda: flower.see(f"task/info/{doomed.id}").get("state") == "STARTED")
    assert flower.tell(f"task/revoke/{doomed.id}", terminate="true").ok
    worker.wait(lambda: flower.see(f"task/info/{doomed.id}").get("state") == "REVOKED")
    assert doomed.state == "REVOKED"
    worker.wait(lambda: worker.notes.hlen("unacked") == 0)
    assert worker.send("nap", 0.01).get(timeout=20) == "done"
