"""Run a Celery worker as a user does: a process, a command line, signals."""

from __future__ import annotations

import contextlib
import gc
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import redis
from celery import Celery
from kombu import pools

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery.app.control import Control

PROGRAMS = Path(__file__).parent / "programs"


class Worker:
    """Hold one worker process, its app seen from outside, and what its tasks noted."""

    def __init__(self, broker: str, backend: str, notes: str, directory: Path) -> None:
        self.url, self.notes_url = broker, notes
        self.notes = redis.Redis.from_url(notes)
        self.app = Celery("celery_app", broker=broker, backend=backend, set_as_current=False)
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("CELERY_", "GREENKIT_"))
        }
        self.environment = {
            **inherited,
            "TEST_BROKER": broker,
            "TEST_BACKEND": backend,
            "TEST_NOTES": notes,
            "TEST_FOLDER": str(directory),
            "PYTHONWARNINGS": "ignore",
        }
        directory.mkdir(exist_ok=True)
        self.log = directory / "worker.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._listens: subprocess.Popen[bytes] | None = None  # the process that has answered a ping

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close what this side opened; a socket left to the collector is a warning, so an error."""
        self.app.backend.result_consumer.stop()
        self.app.backend.client.close()
        self.app.backend.client.connection_pool.disconnect()  # close() leaves them
        pools.reset()
        self.app.close()
        self.notes.close()
        gc.collect()

    @contextlib.contextmanager
    def running(
        self, *arguments: str, app: str = "celery_app", shell: str = "", **environment: str
    ) -> Iterator[Worker]:
        """Start the worker, wait until it says it is ready, and end its process group at the end.

        Args:
            *arguments: Of the worker's command line.
            app: The module of the app.
            shell: What `sh -c` runs, with `{}` for the worker's command line; empty for no shell.
            **environment: On top of what the app needs.
        """
        argv = [
            *(sys.executable, "-m", "celery", "-A", app, "worker", "-l", "INFO", "--without-mingle"),
            *(arguments or ("-P", "gevent", "-c", "4")),
        ]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["sh", "-c", shell.format(shlex.join(argv))] if shell else argv,
                cwd=PROGRAMS, env={**self.environment, **environment}, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        try:
            self.wait(lambda: " ready." in self.text() or self.process.poll() is not None)
            yield self
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def wait(self, condition: Callable[[], object], seconds: float = 30.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"waited {seconds} s in vain\n{self.text()[-4000:]}"
            time.sleep(0.02)

    @property
    def control(self) -> Control:
        """Return the app's remote control once the worker listens, a moment after it is ready."""
        if self._listens is not self.process:
            self.wait(lambda: self.app.control.inspect(timeout=1, limit=1).ping())
            self._listens = self.process
        return self.app.control

    def end(self, *signals: signal.Signals, pause: float = 0.0) -> int:
        """Send the signals and return the exit status."""
        assert self.process is not None
        for number in signals or (signal.SIGTERM,):
            self.process.send_signal(number)
            time.sleep(pause)
        return self.process.wait(30)

    def send(self, task: str, *arguments: object, **options: object) -> object:
        return self.app.send_task(f"celery_app.{task}", arguments, **options)
