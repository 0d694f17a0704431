"""Every start that is not refused runs tasks at once, in one process, and ends on SIGTERM.

The refused ones are in `tests/process/test_celery_start.py`.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis
from celery import Celery

from tests.integration.celery_worker import PROGRAMS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from greenkit.testing import ValkeyServer

TOGETHER = 8
CELERY = (sys.executable, "-m", "celery", "-A")
MONKEY = (sys.executable, "-m", "gevent.monkey", "--module", "celery", "-A", "celery_start", "worker")
OPTIONS = ("-c", "8", "--without-mingle", "--without-gossip", "--pidfile=w.pid", "--logfile=w.log")
OWN_POOL = "from gevent import monkey; monkey.patch_all()\nfrom celery.concurrency.gevent import TaskPool\n"
FILES = {
    "auto.py": "import greenkit.auto\nfrom celery_start import app\n",
    "line1.py": "from gevent import monkey; monkey.patch_all()\nfrom celery_start import app\n",
    "main.py": "import sys, celery_start; celery_start.app.worker_main(sys.argv[1:])",
    "patched_main.py": "import gevent.monkey; gevent.monkey.patch_all(); import main",
    "own_pool.py": OWN_POOL,
    "settings.py": "import os\nbroker_url = os.environ['TEST_BROKER']\n",
}
OURS = {"CELERY_CUSTOM_WORKER_POOL": "greenkit.celery:TaskPool"}
OWN = {"CELERY_CUSTOM_WORKER_POOL": "own_pool:TaskPool"}
GREEN = ("-P", "gevent")


class Meeting:
    """Hold a folder to start workers in, and what eight tasks noted that wait for each other."""

    def __init__(self, server: ValkeyServer, folder: Path) -> None:
        self.folder = folder
        self.notes = redis.Redis.from_url(server.url)
        self.notes.flushdb()
        inherited = {
            name: v for name, v in os.environ.items() if not name.startswith(("CELERY_", "GREENKIT_"))
        }
        self.environment = {
            **inherited,
            "TEST_BROKER": server.broker_url,
            "TEST_NOTES": server.url,
            "PYTHONPATH": f"{PROGRAMS}:{folder}",
        }
        for name, text in FILES.items():
            Path(folder, name).write_text(text)
        with Celery(broker=server.broker_url, set_as_current=False) as app:
            for _ in range(TOGETHER):
                app.send_task("celery_start.meet")

    def start(self, *argv: str, **environment: str) -> subprocess.Popen[bytes]:
        with Path(self.folder, "said").open("wb") as said:
            return subprocess.Popen(
                argv, cwd=self.folder, env={**self.environment, **environment}, stdout=said, stderr=said
            )

    def said(self) -> str:
        files = [Path(self.folder, "said"), *self.folder.glob("*.log")]
        return "\n".join(file.read_text(errors="replace") for file in files)

    def wait(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < end, f"waited in vain\n{self.said()}"
            time.sleep(0.02)

    def end(self, process: subprocess.Popen[bytes]) -> int:
        """Wait until all have met, in one process; end that one and return the status of `process`."""
        try:
            self.wait(lambda: self.notes.get("met") == b"%d" % TOGETHER)
            (pid,) = self.notes.smembers("pids")
            os.kill(int(pid), signal.SIGTERM)
            self.wait(lambda: not list(self.folder.glob("*.pid")))  # Celery takes it away as it ends
            return process.wait(30)
        finally:
            process.kill()
            process.wait()
            for left in self.folder.glob("*.pid"):
                os.kill(int(left.read_text()), signal.SIGKILL)


@pytest.fixture
def meeting(greenkit_valkey: ValkeyServer, tmp_path: Path) -> Iterator[Meeting]:
    """Give a folder and a queue of eight tasks."""
    made = Meeting(greenkit_valkey, tmp_path)
    yield made
    made.notes.close()


@pytest.mark.parametrize(
    ("argv", "env"),
    [
        pytest.param((*CELERY, "celery_start", "worker", *GREEN), {}, id="-P gevent"),
        pytest.param((*CELERY, "line1", "worker", *GREEN), {}, id="patch in the app, -P gevent"),
        pytest.param((*CELERY, "auto", "worker", *GREEN, "-n", "multi"), {}, id="auto, -n multi"),
        pytest.param((*CELERY, "auto", "worker", "-Pcustom"), OURS, id="auto, -Pcustom"),
        pytest.param((*CELERY, "auto", "worker", "-P", "custom"), OWN, id="auto, -P custom, own"),
        pytest.param(
            (*CELERY, "celery_start", "--config", "settings", "worker", *GREEN),
            {"TEST_CONFIG": "1"},
            id="--config",
        ),
        pytest.param((*CELERY, "auto", "worker", "-Pgevent", "--detach"), {}, id="auto, --detach"),
        pytest.param((*MONKEY, *GREEN), {}, id="gevent.monkey -P gevent"),
        pytest.param((*MONKEY, "-P", "threads"), {}, id="gevent.monkey -P threads"),
        pytest.param(
            (sys.executable, "patched_main.py", "worker"), {"TEST_POOL": "gevent"}, id="worker_main"
        ),
    ],
)
def test_a_start_runs_tasks_at_once(meeting: Meeting, argv: tuple[str, ...], env: dict[str, str]) -> None:
    """Eight tasks that wait for each other all end, in one process; SIGTERM ends it with status 0."""
    process = meeting.start(*argv, *OPTIONS, **env)
    assert meeting.end(process) == 0, meeting.said()
    assert "Traceback" not in meeting.said()


def test_a_node_of_multi_runs_tasks_at_once(meeting: Meeting) -> None:
    """`celery multi start w -P gevent`: its node was started with the patch."""
    files = "--pidfile=%n.pid", "--logfile=%n.log"
    argv = (sys.executable, "-m", "celery", "multi", "start", "w", "-A", "celery_start", *GREEN, "-c", "8")
    assert meeting.end(meeting.start(*argv, *files)) == 0, meeting.said()


@pytest.mark.parametrize(
    ("argv", "env"),
    [
        pytest.param((*CELERY, "celery_start", "worker", "-Pgevent"), {}, id="-Pgevent"),
        pytest.param((sys.executable, "main.py", "worker", *GREEN), {}, id="worker_main"),
    ],
)
def test_a_refusal_names_a_command_that_works(
    meeting: Meeting, argv: tuple[str, ...], env: dict[str, str]
) -> None:
    """What the sentence says is what one does next, word by word."""
    assert meeting.start(*argv, *OPTIONS, **env).wait(60) == 1
    right = re.search(r"tart it as: greenkit (.*)", meeting.said())
    assert right, meeting.said()
    process = meeting.start(sys.executable, "-m", "greenkit", *shlex.split(right[1]), **env)
    assert meeting.end(process) == 0, meeting.said()
