"""A worker that recycles: what stops it meanwhile is obeyed, and what starts anew is the same command."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.celery_worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable


pytestmark = pytest.mark.filterwarnings("ignore")
RECYCLING = "-P", "gevent", "-c", "2", "--max-tasks-per-child", "1", "-n", "w@h"
DRAINS = "drains and starts anew"


def by_signals(*numbers: signal.Signals) -> Callable[[Worker], None]:
    def stop(worker: Worker) -> None:
        for number in numbers:
            worker.process.send_signal(number)
            if number is not numbers[-1]:
                worker.wait(lambda: "shutdown" in worker.text() or "Ctrl+C" in worker.text())

    return stop


def by_remote_control(worker: Worker) -> None:
    worker.control.shutdown(destination=["w@h"])
    worker.wait(lambda: "Got shutdown from remote" in worker.text())


@pytest.mark.parametrize(
    ("stop", "status", "finished"),
    [
        (by_signals(signal.SIGTERM), 0, True),
        (by_signals(signal.SIGINT), 1, True),
        (by_signals(signal.SIGQUIT), 0, False),
        (by_signals(signal.SIGTERM, signal.SIGQUIT), 0, False),
        (by_signals(signal.SIGHUP), None, True),
        (by_signals(signal.SIGTERM, signal.SIGHUP), 0, True),
        (by_remote_control, 0, True),
    ],
    ids=["TERM", "INT", "QUIT", "TERM, QUIT", "HUP", "TERM, HUP", "remote shutdown"],
)
@pytest.mark.parametrize("begin", ["tasks", "HUP"])
def test_a_stop_while_it_drains_is_obeyed(
    worker: Worker, begin: str, stop: Callable[[Worker], None], status: int | None, finished: bool
) -> None:  # fmt: skip
    """The task that runs ends, or goes back; nothing starts anew. Two restarts are one."""
    with worker.running(*RECYCLING):
        worker.send("hold", 0, "go")
        worker.wait(lambda: worker.notes.hlen("runs") == 1)
        if begin == "HUP":
            worker.process.send_signal(signal.SIGHUP)
        for number in range(1, 4 if begin == "tasks" else 1):
            worker.send("count", number, 0.0)
        worker.wait(lambda: DRAINS in worker.text())
        stop(worker)
        if finished:
            worker.notes.set("go", 1)
        if status is None:
            worker.wait(lambda: worker.text().count(" ready.") == 2)
            assert worker.end() == 0
        else:
            assert worker.process.wait(30) == status, worker.text()
        assert worker.text().count(" ready.") == (2 if status is None else 1)
        assert "Traceback" not in worker.text()
    assert worker.notes.hget("runs", "0") == b"1"
    assert worker.notes.hlen("unacked") == 0
    assert worker.notes.llen("celery") + int(worker.notes.get("ended") or 0) == (4 if begin == "tasks" else 1)


def test_remote_control_answers_while_it_drains(worker: Worker) -> None:
    """Nothing is fetched any more, and the worker says what it still does."""
    with worker.running(*RECYCLING):
        worker.send("hold", 0, "go")
        worker.wait(lambda: worker.notes.hlen("runs") == 1)
        for number in range(1, 8):
            worker.send("count", number, 0.0)
        worker.wait(lambda: DRAINS in worker.text())
        (tasks,) = worker.control.inspect(timeout=10, limit=1).active().values()
        assert [task["args"] for task in tasks] == [[0, "go"]]
        worker.notes.set("go", 1)
        worker.wait(lambda: int(worker.notes.get("ended") or 0) == 8 and not worker.notes.hlen("unacked"))
        assert {int(count) for count in worker.notes.hvals("runs")} == {1}
        # All is acknowledged, so a life that is due has said so. A signal before its handlers ends the next.
        worker.wait(lambda: worker.text().count(" ready.") == worker.text().count(DRAINS) + 1)
        assert worker.end() == 0


def test_the_drain_timeout_holds_when_it_recycles(worker: Worker) -> None:
    """A task that never ends goes back to the queue, and the new process runs it."""
    with worker.running(*RECYCLING, TEST_OPTIONS=repr({"drain_timeout": 0.5})):
        worker.send("hold", 0, "go")
        worker.wait(lambda: worker.notes.hlen("runs") == 1)
        for number in range(1, 4):
            worker.send("count", number, 0.0)
        worker.wait(lambda: worker.notes.hget("runs", "0") == b"2")
        worker.notes.set("go", 1)
        assert worker.text().count(" ready.") >= 2
        assert worker.end() == 0


SITE = """
import json, os, signal, sys
from celery import Celery, signals
import greenkit.celery
app = Celery("shop", broker=os.environ["TEST_BROKER"])
greenkit.celery.install(app)
lives = os.environ["TEST_FOLDER"] + "/lives"
@signals.worker_ready.connect
def ready(**_):
    with open(lives, "a") as file:
        print(json.dumps([os.getpid(), sys.executable, sys.orig_argv, os.getcwd(), sys.prefix]), file=file)
"""


def lives(worker: Worker) -> list[list[object]]:
    file = Path(worker.environment["TEST_FOLDER"], "lives")
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def is_running(pid: int) -> bool:
    """Tell so of a process that may be nobody's child here: dead, it stays until its new parent comes by."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


COMMANDS = {
    "python -m celery": "{python} -m celery -A shop worker -P gevent -c 1",
    "options of Python": "{python} -X dev -W ignore -m celery -A shop worker -P gevent -c 1",
    "celery": "{bin}/celery -A shop worker -P gevent -c 1",
    "greenkit celery": "{bin}/greenkit celery -A shop worker -c 1",
    "--workdir": "{python} -m celery --workdir inner -A shop worker -P gevent -c 1",
    "greenkit --workdir": "{bin}/greenkit celery --workdir inner -A shop worker -c 1",
    "relative paths": "{relative}/python {relative}/celery -A shop worker -P gevent -c 1",
    "a word with a space": "{python} -m celery -A shop worker -P gevent -c 1 -n 'a b@h'",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_it_starts_anew_as_it_was_started(worker: Worker, tmp_path: Path, name: str) -> None:
    """Same process number, interpreter, arguments and directory, by a virtual environment that is a link."""
    site = tmp_path / "site"
    (site / "inner").mkdir(parents=True)
    code = site / "inner" / "shop.py" if "--workdir" in name else site / "shop.py"
    code.write_text(SITE)
    linked = tmp_path / "venv"
    linked.symlink_to(sys.prefix)
    command = COMMANDS[name].format(
        python=linked / "bin" / "python", bin=linked / "bin", relative="../venv/bin"
    )
    with worker.log.open("wb") as log, subprocess.Popen(
        shlex.split(command), cwd=site, env={**worker.environment, "PWD": "/"}, stdout=log, stderr=log
    ) as process:  # fmt: skip
        try:
            worker.wait(lambda: len(lives(worker)) == 1)
            process.send_signal(signal.SIGHUP)
            worker.wait(lambda: len(lives(worker)) == 2)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, worker.text()
        finally:
            process.kill()
    first, second = lives(worker)
    assert first[0] == second[0] == process.pid
    assert first[2][1:] == second[2][1:]
    assert first[3:] == second[3:]


def test_a_daemon_of_celery_multi_starts_anew(worker: Worker, tmp_path: Path) -> None:
    """Detached, with a file for its process number; the file names it again, and the stop ends it."""
    (tmp_path / "shop.py").write_text(SITE)
    words = (
        "-A",
        "shop",
        "-P",
        "gevent",
        "-c",
        "1",
        f"--pidfile={tmp_path}/%n.pid",
        f"--logfile={tmp_path}/%n.log",
    )
    multi = [sys.executable, "-m", "celery", "multi"]

    def call(*arguments: str) -> None:
        subprocess.run([*multi, *arguments, *words], cwd=tmp_path, env=worker.environment, check=True,
                       stdout=subprocess.DEVNULL)  # fmt: skip

    call("start", "w1")
    try:
        worker.log.touch()
        worker.wait(lambda: len(lives(worker)) == 1)
        pid = int((tmp_path / "w1.pid").read_text())
        os.kill(pid, signal.SIGHUP)
        worker.wait(lambda: len(lives(worker)) == 2)
        assert int((tmp_path / "w1.pid").read_text()) == pid
        assert lives(worker)[0] == lives(worker)[1]
    finally:
        call("stopwait", "w1")
    worker.wait(lambda: not is_running(pid))


LATE = {
    "an exit function": "import atexit\natexit.register(os.kill, os.getpid(), signal.SIGTERM)\n",
    "worker_shutdown": """
@signals.worker_shutdown.connect
def stop(**_):
    os.kill(os.getpid(), signal.SIGTERM)
""",
    "the directory is gone": "import shutil, atexit\natexit.register(shutil.rmtree, os.getcwd())\n",
}


@pytest.mark.parametrize("when", LATE)
def test_a_stop_when_all_but_the_exchange_is_done_is_obeyed(
    worker: Worker, tmp_path: Path, when: str
) -> None:
    """Also a signal that no greenlet will ever handle; and what cannot start anew says so by its status."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "shop.py").write_text(SITE + LATE[when])
    command = [sys.executable, "-m", "celery", "-A", "shop", "worker", "-P", "gevent", "-c", "1"]
    with worker.log.open("wb") as log, subprocess.Popen(
        command, cwd=site, env={**worker.environment, "PWD": str(site)}, stdout=log, stderr=log
    ) as process:  # fmt: skip
        try:
            worker.wait(lambda: len(lives(worker)) == 1)
            process.send_signal(signal.SIGHUP)
            gone = "gone" in when
            assert process.wait(30) == gone, worker.text()
            assert ("cannot start anew" in worker.text()) == gone
        finally:
            process.kill()
    assert len(lives(worker)) == 1
