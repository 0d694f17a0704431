"""What the live page needs of the driver: measurements of other processes, and an account for the admin."""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import tempfile
import threading
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from driver.watch import Control, hub_lag
from greenkit.errors import GreenkitError

if TYPE_CHECKING:
    import argparse

    from driver.servers import Servers

EVERY = 0.5  # seconds between two samples
KEPT = 600  # samples: the last five minutes
USER = "demo"


class Page:
    """Sample the mock server and the worker into a file that the web server reads."""

    def __init__(self, options: argparse.Namespace, servers: Servers) -> None:
        self._folder = tempfile.mkdtemp(prefix="llm-batch-live-")
        self._path = Path(self._folder, "numbers.json")
        self._servers = servers
        self._quota = {"per_second": options.rate.per_second, "burst": options.rate.rate.burst}
        self._samples: deque[dict] = deque(maxlen=KEPT)
        self._lag: float | None = None
        self._stop = threading.Event()
        # A database that was given gets tables, and no account that outlives the demo.
        self.password = "" if options.database_url else secrets.token_urlsafe(9)
        work = [self._sample, self._ask] if options.pool == "gevent" else [self._sample]
        self._threads = [threading.Thread(target=each, daemon=True) for each in work]
        for thread in self._threads:
            thread.start()

    def arguments(self) -> list[str]:
        """Return what the web server's command gets on top."""
        return ["--superuser"] if self.password else []

    def environment(self) -> dict[str, str]:
        """Return what the web server's environment gets on top."""
        account = {"USERNAME": USER, "EMAIL": "demo@localhost", "PASSWORD": self.password}
        found = {f"DJANGO_SUPERUSER_{name}": value for name, value in account.items() if self.password}
        return {**found, "LIVE_NUMBERS": str(self._path)}

    def _sample(self) -> None:
        number = 0
        while not self._stop.wait(EVERY):
            with contextlib.suppress(GreenkitError, OSError):  # a busy server misses a sample
                stats = self._servers.llm.stats()
                number += 1
                counts = {name: stats[name] for name in ("calls", "rejected", "in_flight")}
                taken = {"number": number, "at": time.time(), "answered": stats["ok"], "hub_lag": self._lag}
                self._samples.append(taken | counts)
                self._write()

    def _write(self) -> None:
        text = json.dumps({"quota": self._quota, "samples": list(self._samples)})
        draft = self._path.with_suffix(".new")
        draft.write_text(text, encoding="utf-8")
        draft.replace(self._path)  # a reader sees the old file or the new one, never half of one

    def _ask(self) -> None:
        control = Control(self._servers.broker_url)  # its own: connections are not shared between threads
        while not self._stop.wait(2 * EVERY):
            lag = hub_lag(control.snapshot())
            self._lag = self._lag if lag is None else lag

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(3.0)
        self.remove()

    def remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
