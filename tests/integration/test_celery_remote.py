"""Remote control of a greenkit worker: commands that take effect, and that survive their connection."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from greenkit.testing import RabbitServer
from greenkit.testing._find import rabbitmq_script
from tests.integration.celery_worker import PROGRAMS, Worker

if TYPE_CHECKING:
    from greenkit.testing import ValkeyServer

pytestmark = pytest.mark.filterwarnings("ignore")


def ask(worker: Worker, command: str, **arguments: Any) -> Any:
    (answer,) = worker.control.inspect(timeout=5, limit=1)._request(command, **arguments).values()
    return answer


def tell(worker: Worker, command: str, **arguments: Any) -> None:
    (answer,) = worker.control.broadcast(command, arguments, reply=True, timeout=5, limit=1)
    assert "ok" in next(iter(answer.values())), answer


def test_remote_control_survives_its_connection(worker: Worker) -> None:
    """The pub/sub connection is cut; the worker answers again while the task that fills its pool runs."""
    with worker.running("-P", "gevent", "-c", "1"):
        worker.send("hold", 1, "go")
        worker.wait(lambda: worker.notes.hlen("runs") == 1)
        assert worker.notes.client_kill_filter(_type="pubsub") > 0
        worker.wait(lambda: worker.app.control.inspect(timeout=0.3).ping())
        assert worker.notes.get("ended") is None, "the pool was not full when the answer came"
        worker.notes.set("go", 1)
        worker.wait(lambda: worker.notes.get("ended") == b"1")


def close_pidbox_connection(rabbit: RabbitServer) -> None:
    """Have the broker close the connection on which it sends remote control to the worker."""
    guard = rabbit._guardian
    assert guard is not None
    home = Path(guard.directory)
    environment = {**os.environ, "HOME": str(home), "ERL_EPMD_PORT": str(rabbit._ports[2])}
    cookie = (home / ".erlang.cookie").read_text()
    command = rabbitmq_script().with_name("rabbitmqctl"), "-q", "-n", rabbit._node, "--erlang-cookie", cookie

    def ctl(*words: str) -> dict[str, str]:
        done = subprocess.run([*command, *words], env=environment, capture_output=True, text=True, check=True)
        return dict(line.split("\t") for line in done.stdout.splitlines() if "\t" in line)

    consumers = ctl("list_consumers", "queue_name", "channel_pid")
    (channel,) = [channel for queue, channel in consumers.items() if queue.endswith(".celery.pidbox")]
    ctl("close_connection", ctl("list_channels", "pid", "connection")[channel], "closed by a test")


def test_remote_control_survives_its_amqp_connection(greenkit_valkey: ValkeyServer, tmp_path: Path) -> None:
    """RabbitMQ closes the pidbox's connection: ping answers while the pool is full, the task runs once."""
    with RabbitServer(own=True) as rabbit:
        urls = rabbit.broker_url, greenkit_valkey.broker_url, greenkit_valkey.url
        with Worker(*urls, tmp_path) as worker, worker.running("-P", "gevent", "-c", "1"):
            worker.notes.flushdb()
            worker.send("hold", 1, "go")
            worker.wait(lambda: worker.notes.hlen("runs") == 1)
            close_pidbox_connection(rabbit)
            worker.wait(lambda: "Connection to broker lost" in worker.text())
            worker.wait(lambda: worker.app.control.inspect(timeout=1).ping())
            assert worker.notes.get("ended") is None, "the pool was not full when the answer came"
            worker.notes.set("go", 1)
            worker.wait(lambda: worker.notes.get("ended"))
            assert worker.end() == 0
            assert worker.notes.hgetall("runs") == {b"1": b"1"}


def test_limits_and_revokes_by_remote_control(worker: Worker) -> None:
    """time_limit reaches the runs that follow; what is queued, marked by a header, or running is revoked."""
    with worker.running("-P", "gevent", "-c", "1", "--prefetch-multiplier", "4"):
        tell(worker, "time_limit", task_name="celery_app.nap", hard=0.5)
        with pytest.raises(Exception, match="TimeLimitExceeded"):
            worker.send("nap", 30).get(timeout=10)
        tell(worker, "time_limit", task_name="celery_app.nap", hard=None, soft=None)

        running = worker.send("nap", 60)
        queued = worker.send("child", "left")
        expired = worker.send("child", "left", expires=0.2)
        worker.wait(lambda: worker.notes.hlen("unacked") == 3)
        worker.wait(lambda: len(ask(worker, "reserved")) == 2)  # the first has started
        worker.wait(lambda: [task["id"] for task in ask(worker, "active")] == [running.id])
        tell(worker, "revoke", task_id=queued.id)
        time.sleep(0.3)  # past the other's expiry
        worker.control.revoke(running.id, terminate=True)
        worker.wait(lambda: (running.state, queued.state, expired.state) == ("REVOKED",) * 3)

        stamped = worker.app.signature("celery_app.nap", (60,))
        stamped.stamp(customer="42")
        marked = stamped.apply_async()
        worker.wait(lambda: ask(worker, "active"))
        worker.control.revoke_by_stamped_headers({"customer": ["42"]}, terminate=True)
        worker.wait(lambda: marked.state == "REVOKED")
        worker.wait(lambda: worker.notes.hlen("unacked") == 0)
        assert worker.notes.get("child") is None, "a revoked task ran"
        assert worker.end() == 0


def run(worker: Worker, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a `celery` command as a user does."""
    argv = [sys.executable, "-m", "celery", "-A", "celery_app", *words]
    return subprocess.run(
        argv, cwd=PROGRAMS, env={**worker.environment, **environment}, capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip


def run_all(worker: Worker, *commands: str, **environment: str) -> list[subprocess.CompletedProcess[str]]:
    """Run several at once: most of their time is waiting."""
    with ThreadPoolExecutor() as at_once:
        return list(at_once.map(lambda command: run(worker, *command.split(), **environment), commands))


def test_commands_of_a_running_worker(worker: Worker) -> None:
    """Inspect, control and top say and do what they should, typed at a command line."""
    with worker.running("-P", "gevent", "-c", "3"):
        result = worker.send("nap", 60)
        worker.wait(lambda: worker.notes.hlen("unacked") == 1)
        inspected, seen = run_all(
            worker, "inspect --timeout 3 -j greenkit", "greenkit top --once --timeout 3"
        )  # fmt: skip
        (told,) = json.loads(inspected.stdout).values()
        (task,) = told["tasks"]
        assert (task["id"], task["name"], task["children"]) == (result.id, "celery_app.nap", 0)
        assert "celery_app.py:" in task["at"]
        assert (task["at"].split()[-1], task["on"]) == ("nap", "gevent.hub.sleep")
        assert 0 < task["seconds"] < 60
        (active,) = ask(worker, "active")
        assert (active["id"], active["worker_pid"]) == (result.id, task["greenlet"])
        assert told["pool"]["celery"] == {"size": 3, "in_use": 1, "waiting": 0, "limited": 0, "ended": 0}
        assert seen.returncode == 0, seen.stderr
        assert "1/3 running" in seen.stdout
        assert f"celery_app.nap  {result.id}" in seen.stdout

        assert "5 slots: 1 running" in run(worker, "control", "--timeout", "3", "greenkit_pool", "5").stdout
        for _ in range(4):
            worker.send("nap", 60)
        worker.wait(lambda: len(ask(worker, "active")) == 5)
        for command, arguments in (("greenkit_pool", {"slots": 0}), ("pool_grow", {"n": -5})):
            refused = worker.control.broadcast(command, arguments, reply=True, timeout=5, limit=1)
            assert "cannot shrink by 5" in str(refused)
        assert ask(worker, "stats")["pool"]["max-concurrency"] == 5


def test_commands_that_cannot_be_done(worker: Worker) -> None:
    """A wrong argument, no worker or no broker: status 2 and one sentence, no traceback."""
    away = {"TEST_BROKER": "redis://127.0.0.1:1/0", "TEST_TRANSPORT": "{'max_retries': 1}"}
    *cut_off, many, more, soon, never = run_all(
        worker, "greenkit top --once", "greenkit doctor --worker", "inspect greenkit many",
        "control greenkit_pool more", "control time_limit celery_app.nap soon", "greenkit top --every -1",
        **away,
    )  # fmt: skip
    for said in cut_off:
        assert (said.returncode, said.stderr) == (2, "")
        assert "the broker redis://127.0.0.1:1/0 could not be asked" in said.stdout.replace("\n", " ")
    for said in (many, more, soon, never):
        assert (said.returncode, said.stderr.splitlines()[-1][:7]) == (2, "Error: "), said
    alone = run(worker, "greenkit", "top", "--once")
    assert (alone.returncode, alone.stderr) == (2, "")
    assert alone.stdout.startswith("no worker with greenkit.celery.install(app) answered")


def test_autoscale_reaches_its_most_at_once(worker: Worker) -> None:
    """A burst grows the pool to the maximum with the first look; the limits can be moved."""
    with worker.running("-P", "gevent", "--autoscale=6,1"):
        for _ in range(6):
            worker.send("nap", 60)
        worker.wait(lambda: len(ask(worker, "active")) == 6)
        stats = ask(worker, "stats")
        assert stats["autoscaler"]["current"] == 6
        assert stats["pool"]["running-tasks"] == 6
        tell(worker, "autoscale", max=8, min=2)
        worker.send("nap", 60)
        worker.wait(lambda: len(ask(worker, "active")) == 7)


def test_a_pool_restart_says_what_it_does(worker: Worker) -> None:
    """There is nothing to restart in a pool of greenlets, and the worker says so."""
    with worker.running(TEST_CONF="{'worker_pool_restarts': True}"):
        tell(worker, "pool_restart")
        worker.wait(lambda: "no processes to restart" in worker.text())
        assert worker.send("nap", 0.01).get(timeout=10) == "done"


def test_events_tell_the_truth_about_a_terminated_task(worker: Worker) -> None:
    """task-revoked comes once and no task-succeeded after it; 60 tasks' events arrive complete."""
    seen: list[tuple[str, str]] = []
    with worker.running("-P", "gevent", "-c", "20", "-E"), worker.app.connection() as connection:
        receiver = worker.app.events.Receiver(
            connection, handlers={"*": lambda event: seen.append((event["type"], event.get("uuid", "")))}
        )
        with receiver.consumer_context() as (draining, _, _):
            with contextlib.suppress(TimeoutError):
                draining.drain_events(timeout=0.5)  # subscribes
            doomed = worker.send("nap", 60)
            worker.wait(lambda: worker.notes.hlen("unacked") == 1)
            worker.control.revoke(doomed.id, terminate=True)
            many = [worker.send("nap", 0.05) for _ in range(60)]
            end = time.monotonic() + 20
            while sum(kind == "task-succeeded" for kind, _ in seen) < 60 and time.monotonic() < end:
                with contextlib.suppress(TimeoutError):
                    draining.drain_events(timeout=0.5)
        assert {uuid for kind, uuid in seen if kind == "task-succeeded"} == {one.id for one in many}
        assert [kind for kind, uuid in seen if uuid == doomed.id][-1] == "task-revoked"


LATE_INSTALL = """
import os
from celery import Celery, signals
import greenkit.celery
app = Celery("late", broker=os.environ["TEST_BROKER"])
@signals.celeryd_after_setup.connect
def late(**_):
    greenkit.celery.install(app)
"""


def test_what_is_configured_in_vain_is_named(worker: Worker, tmp_path: Path) -> None:
    """A misspelt key in the log and by the doctor; an install() that came too late by `inspect` too."""
    with worker.running(TEST_CONF="{'greenkit_drain_timout': 3}"):
        worker.wait(lambda: "did you mean greenkit_drain_timeout?" in worker.text())
        assert "GK503" in str(ask(worker, "greenkit_doctor"))
        assert worker.end() == 0
    (tmp_path / "late.py").write_text(LATE_INSTALL)
    with worker.running("-P", "gevent", "-c", "2", app="late", PYTHONPATH=str(tmp_path)):
        worker.wait(lambda: "install(app) came when the worker had begun" in worker.text())
        assert "GK504" in str(ask(worker, "greenkit_doctor"))
        told = worker.control.broadcast("greenkit", reply=True, timeout=5, limit=1)
        assert "install(app) came when" in str(told)
        assert worker.end() == 0
