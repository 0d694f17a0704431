"""A task that has something to publish at its end while its broker refuses: what the reference says."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import pytest
import redis
from celery import chain, chord, group

from greenkit.testing import FaultProxy, ValkeyServer
from tests.integration.celery_worker import Worker

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore")
APP = """
import os, time
from pathlib import Path
from celery import Celery
import greenkit.celery
from greenkit.errors import WouldWait
app = Celery("ends", broker=os.environ["TEST_BROKER"], backend=os.environ["TEST_BACKEND"])
app.conf.update(broker_connection_retry_on_startup=True, task_acks_late=True, worker_prefetch_multiplier=1)
app.conf.broker_transport_options = {"visibility_timeout": 600}
greenkit.celery.install(app)
here = Path(os.environ["TEST_FOLDER"])

def note(name, line="ran"):
    with (here / name).open("a") as file:
        print(line, file=file)

def wait(name):
    note(name)
    while not (here / "go").exists():
        time.sleep(0.02)

@app.task
def first(name):
    wait(name)
    return 1

@app.task
def then(*args):
    note("then")
    return 2

@app.task(bind=True, max_retries=5, default_retry_delay=0)
def again(self, name):
    wait(name)
    note(name + ".retries", self.request.retries)
    if not (here / "healed").exists():
        raise self.retry()
    return "done"

@app.task(bind=True, max_retries=5, default_retry_delay=0, acks_late=False)
def again_early(self, name):
    wait(name)
    raise self.retry()

@app.task(autoretry_for=(KeyError,), default_retry_delay=0, retry_backoff=False)
def again_by_itself(name):
    wait(name)
    if not (here / "healed").exists():
        raise KeyError(name)
    return "done"

@app.task(max_retries=0)
def full(name):
    wait(name)
    if not (here / "healed").exists():
        raise WouldWait("full", eta=0.0)
    return "done"
"""


def test_what_cannot_be_sent_at_the_end_of_a_task(greenkit_valkey: ValkeyServer, tmp_path: Path) -> None:
    """Retries of late-ack tasks go back to the queue; an early one's is lost; what follows is a failure."""
    (tmp_path / "ends.py").write_text(APP)
    with ValkeyServer(own=True, tcp=True) as server, FaultProxy(server.broker_url) as proxy:
        urls = proxy.url, greenkit_valkey.broker_url, greenkit_valkey.url
        with Worker(*urls, tmp_path) as worker:
            worker.notes.flushdb()
            queues = redis.Redis.from_url(server.url)
            with worker.running("-P", "gevent", "-c", "20", app="ends", PYTHONPATH=str(tmp_path)):
                run_all(worker, proxy, queues, tmp_path)
                gc.collect()  # results unsubscribe when they go, from a server that is there
                assert worker.end() == 0
            queues.close()


def run_all(worker: Worker, proxy: FaultProxy, queues: redis.Redis, folder: Path) -> None:
    def s(name: str, *args: Any) -> Any:
        return worker.app.signature(f"ends.{name}", args)

    sent = {
        "retry": s("again", "retry").apply_async(),
        "auto": s("again_by_itself", "auto").apply_async(),
        "quota": s("full", "quota").apply_async(),
        "early": s("again_early", "early").apply_async(),
        "link": s("first", "link").apply_async(link=s("then")),
    }
    following = chain(s("first", "chain"), s("then")).apply_async()
    parts = chain(s("first", "parts"), group(s("then"), s("then"))).apply_async()
    body = chord([s("first", "part")], s("then")).apply_async()
    running = [*sent, "chain", "parts", "part"]
    worker.wait(lambda: all((folder / name).exists() for name in running))

    proxy.refuse()
    proxy.cut()
    worker.wait(lambda: "Connection to broker lost" in worker.text())
    (folder / "go").touch()

    heads = {"link": sent["link"], "chain": following.parent, "parts": parts.parent or parts}
    after: dict[str, list[Any]] = {
        "link": [],
        "chain": [following],
        "parts": list(parts.results),
        "body": [],
    }
    ends = {**heads, "body": body}
    worker.wait(lambda: any(result.state == "FAILURE" for result in ends.values()))
    (folder / "healed").touch()
    proxy.accept()

    for name in "retry", "auto", "quota":
        assert sent[name].get(timeout=30) == "done", name
    assert set((folder / "retry.retries").read_text().split()) == {"0"}, "the lost retry was counted"
    worker.wait(lambda: all(result.state in ("SUCCESS", "FAILURE") for result in ends.values()))
    sent_on = 0
    for name, result in ends.items():
        if result.state == "FAILURE":
            assert "refused" in str(result.result) or "onnection" in str(result.result)
            assert {later.state for later in after[name]} <= {"PENDING", "FAILURE"}, "what follows ran"
        else:  # its connection was a new one, which waits for the broker
            sent_on += {"link": 1, "chain": 1, "parts": 2, "body": 1}[name]
    ran = folder / "then"
    worker.wait(lambda: (ran.read_text().count("ran") if ran.exists() else 0) == sent_on)
    worker.wait(lambda: queues.hlen("unacked") == 0 and queues.llen("celery") == 0)
    assert sent["early"].state not in ("SUCCESS", "FAILURE")
    assert (folder / "early").read_text().split() == ["ran"]
