"""The first screen of the README, typed by a machine."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from greenkit.testing import MockLLM, Program, ValkeyServer
from tests.docs.pages import blocks

PAGE = "README.md"


@pytest.mark.timeout(120)
def test_the_first_task_runs_as_typed(tmp_path):
    """The file and the two commands call a server 300 times, on another broker and another URL only."""
    code, worker, send = [block for block in blocks(PAGE) if block.language in {"python", "console"}]
    code.write(tmp_path)
    with ValkeyServer(own=True) as valkey, MockLLM() as server:
        environment = {
            "CELERY_BROKER_URL": valkey.broker_url,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        (command, _), (sending, _) = *worker.commands(), *send.commands()
        sending = sending.replace("http://localhost:8000/", server.url + "/stats")
        program = Program(
            shlex.split(command), ready=" ready.", env=environment, cwd=tmp_path, log=tmp_path / "log"
        )
        with program:
            subprocess.run(sending, shell=True, cwd=tmp_path, env={**os.environ, **environment}, check=True)
            _wait_for(tmp_path / "log", "succeeded", 300)
        with urllib.request.urlopen(server.url + "/stats") as answer:
            assert json.load(answer)["connections"] <= 65  # the session's own, and this one


def _wait_for(log: Path, word: str, count: int) -> None:
    import time

    end = time.monotonic() + 60.0
    while (found := log.read_text(encoding="utf-8").count(word)) < count:
        assert time.monotonic() < end, f"{found} of {count} {word}"
        time.sleep(0.1)
