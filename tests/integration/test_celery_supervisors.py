"""What Kubernetes and systemd send to a worker they stop, signal by signal; the how-to page says the same."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from greenkit.celery._options import Options
from tests.integration.celery_worker import PROGRAMS, Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


pytestmark = pytest.mark.filterwarnings("ignore")
GRACE = 30.0  # seconds from the first signal to SIGKILL


def kubernetes(worker: Worker) -> None:
    """TERM to the container's first process; systemd's KillMode=mixed begins in the same way."""
    worker.process.send_signal(signal.SIGTERM)
    worker.wait(lambda: "Warm shutdown" in worker.text())
    worker.notes.set("go", 1)


def kubernetes_pre_stop(worker: Worker) -> None:
    """A preStop command that asks for the end by remote control, and TERM when the command is through."""
    command = "-A", "celery_app", "control", "--timeout", "0.1", "shutdown"
    with subprocess.Popen(
        [sys.executable, "-m", "celery", *command], cwd=PROGRAMS, env=worker.environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ):  # fmt: skip
        worker.wait(lambda: "Got shutdown from remote" in worker.text())
        worker.notes.set("go", 1)
    worker.process.send_signal(signal.SIGTERM)


def systemd(worker: Worker) -> None:
    """KillMode=control-group: TERM to every process of the unit, then CONT for those that stand still."""
    for number in signal.SIGTERM, signal.SIGCONT:
        os.killpg(worker.process.pid, number)
    worker.wait(lambda: "Warm shutdown" in worker.text())
    worker.notes.set("go", 1)


@pytest.mark.parametrize(
    ("shell", "stop"),
    [
        ("exec {}", kubernetes),
        ("exec {}", kubernetes_pre_stop),
        ("trap : TERM; {} & wait; wait $!", systemd),
    ],
    ids=["Kubernetes", "Kubernetes with preStop", "systemd"],
)
def test_a_supervised_worker_ends_before_it_is_killed(
    worker: Worker, shell: str, stop: Callable[[Worker], None]
) -> None:
    """Of four running tasks two end; the others, and three that wait, go back: none is lost or repeated."""
    conf = {"TEST_OPTIONS": "{'drain_timeout': 5.0}"}
    with worker.running("-P", "gevent", "-c", "4", "--prefetch-multiplier", "2", shell=shell, **conf):
        for number, key in enumerate(["go", "go", *["never"] * 5]):
            worker.send("hold", number, key)
        worker.wait(lambda: worker.notes.hlen("runs") == 4 and worker.notes.hlen("unacked") == 7)
        stop(worker)
        assert worker.process.wait(GRACE) == 0
        with pytest.raises(ProcessLookupError):  # the KILL that follows finds nobody
            os.killpg(worker.process.pid, signal.SIGKILL)
        assert "Traceback" not in worker.text()
    assert (worker.notes.llen("celery"), worker.notes.hlen("unacked")) == (5, 0)
    assert int(worker.notes.get("ended")) == 2
    assert worker.notes.hgetall("runs") == {str(number).encode(): b"1" for number in range(4)}


@contextlib.contextmanager
def companion(worker: Worker, log: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a `greenkit celery` command beside the workers."""
    words = "-m", "greenkit", "celery", "-A", "celery_app", *command
    environment = {**worker.environment, "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as output, subprocess.Popen(
        [sys.executable, *words], cwd=PROGRAMS, env=environment, stdout=output, stderr=subprocess.STDOUT
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_beat_and_events_end_in_good_order(worker: Worker, tmp_path: Path, number: signal.Signals) -> None:
    """Scheduler, dumper and camera are told to end while they wait, and leave with status 0."""
    commands = (
        ("beat", "-l", "INFO", "-s", str(tmp_path / "schedule")),
        ("events", "--dump"),
        ("events", "--camera", "celery.events.snapshot.Polaroid"),
    )
    logs = [worker.log, tmp_path / "dump.log", tmp_path / "camera.log"]
    with contextlib.ExitStack() as stack:
        running = [
            stack.enter_context(companion(worker, log, *command))
            for log, command in zip(logs, commands, strict=True)
        ]
        worker.wait(lambda: "beat: Starting" in worker.text())
        worker.wait(lambda: len(worker.notes.client_list(_type="pubsub")) == 2)  # both listen
        for process in running:
            process.send_signal(number)
        ended = [process.wait(30) for process in running]
        assert ended == [0, 0, 0], [log.read_text() for log in logs]


BEAT = """
import os, signal
from celery import Celery
from celery.beat import PersistentScheduler
import greenkit.celery
app = Celery("b", broker="memory://")
greenkit.celery.install(app)
class Early(PersistentScheduler):
    def setup_schedule(self):
        super().setup_schedule()
        with open("made", "a") as file:
            file.write("schedule\\n")
        os.kill(os.getpid(), getattr(signal, os.environ["NUMBER"]))
"""


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_beat_ends_in_good_order_while_it_makes_its_schedule(tmp_path: Path, number: str) -> None:
    """Its own handler would open the schedule a second time, in the middle of the first."""
    (tmp_path / "b.py").write_text(BEAT)
    argv = [sys.executable, "-m", "celery", "-A", "b", "beat", "-S", "b:Early", "-s", "schedule"]
    ended = subprocess.run(
        argv, cwd=tmp_path, env={**os.environ, "NUMBER": number}, capture_output=True, check=False, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "made").read_text() == "schedule\n"
    assert b"Traceback" not in ended.stderr


def test_the_page_allows_for_the_drain() -> None:
    """Both recipes of the how-to wait longer than a drain takes, and make the worker the first process."""
    page = Path("docs/howto/stop-a-celery-worker.md").read_text(encoding="utf-8")

    def number(pattern: str) -> float:
        (found,) = re.findall(pattern, page)
        return float(found)

    longest = number(r"install\(app, drain_timeout=([\d.]+)\)") + 2 * Options().kill_grace
    assert longest + 5 < number(r"TimeoutStopSec=(\d+)")
    assert longest + 5 < number(r"terminationGracePeriodSeconds: (\d+)")
    assert re.search(r"^ExecStart=\S+/greenkit celery ", page, re.MULTILINE)
    assert 'command: ["greenkit", "celery", ' in page
