"""The tutorial, typed by a machine: from an empty directory to 300 answered calls."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from greenkit.testing import Program
from tests.docs.pages import blocks

PAGE = "docs/tutorial/2-your-project.md"
# The test's own environment stands for the one the reader makes; the wheels have a test of their own.
INSTALLING = ("python -m venv", ". .venv", "pip install")
BACKGROUND = {"python servers.py": "Press Enter", "celery -A shop worker": " ready."}


class Reader:
    """Types what the page says, in `directory`, as its reader would."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("GREENKIT", "DJANGO"))}
        self.environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment["PYTHONPATH"] = ""
        self.programs: list[Program] = []
        self.shown: list[tuple[str, str]] = []

    def type(self, command: str, expected: str) -> None:
        """Run `command` to its end, or in the background when it is a server."""
        if command.startswith(INSTALLING):
            return
        for start, ready in BACKGROUND.items():
            if command.startswith(start):
                self.start(command, ready)
                return
        done = subprocess.run(
            command, shell=True, cwd=self.directory, env=self.environment, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"$ {command}\n{done.stdout}{done.stderr}"
        self.shown.append((command, done.stdout))
        for line in expected.splitlines():
            assert line in done.stdout, f"$ {command}\n{done.stdout}{done.stderr}"

    def start(self, command: str, ready: str) -> None:
        """Start a server and paste the `export` lines it prints."""
        log = self.directory / f"{len(self.programs)}.log"
        words = shlex.split(command)
        # Standard input of a terminal stays open; that of a test is at its end.
        shell = ["sh", "-c", f"tail -f /dev/null | {shlex.join(words)}"] if words[0] == "python" else words
        program = Program(shell, ready=ready, log=str(log), env=self.environment, cwd=str(self.directory))
        self.programs.append(program)
        program.start()
        for name, value in re.findall(r"(\w+)=(\S+)", "\n".join(_exports(log))):
            self.environment[name] = value.strip("'")

    def stop(self) -> None:
        """Stop the servers, the last one first."""
        for program in reversed(self.programs):
            program.stop(timeout=30.0)


def _exports(log: Path) -> list[str]:
    return [line for line in log.read_text(encoding="utf-8").splitlines() if line.startswith("export ")]


@pytest.fixture
def reader(tmp_path):
    reader = Reader(tmp_path)
    yield reader
    reader.stop()


@pytest.mark.timeout(240)
def test_the_tutorial_answers_300_calls(reader):
    """Typed block by block into an empty directory it ends with 300 answers, and nobody was refused."""
    for block in blocks(PAGE):
        if block.language == "python":
            block.write(reader.directory)
        elif block.language == "console":
            for command, expected in block.commands():
                if "Answer.objects.count()" in command:
                    _wait_for_answers(reader)
                reader.type(command, expected)
    assert reader.shown[-1][1].endswith("300 answers\n")
    with urllib.request.urlopen(reader.environment["LLM_URL"] + "/stats") as answer:
        seen = json.load(answer)
    assert (seen["ok"], seen["rejected"]) == (300, 0)


def _wait_for_answers(reader: Reader) -> None:
    """Give the worker the seconds the page speaks of; on a busy machine there are more of them."""
    program = (
        "import time, django; django.setup(); from answers.models import Answer\n"
        "end = time.monotonic() + 60\n"
        "while Answer.objects.count() < 300 and time.monotonic() < end: time.sleep(0.2)"
    )
    environment = reader.environment | {"DJANGO_SETTINGS_MODULE": "shop.settings", "PYTHONPATH": "."}
    subprocess.run([sys.executable, "-c", program], cwd=reader.directory, env=environment, check=True)
