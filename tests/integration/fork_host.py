"""Run many programs, each in a fork of one process that has imported what all of them need.

An SDK takes two seconds to import. A process that has imported it and done nothing else has no hub and no
thread, so a fork of it is as clean as a new interpreter.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from greenkit.testing import CleanRun
from greenkit.testing._clean import _NOT_INHERITED

if TYPE_CHECKING:
    from collections.abc import Mapping

# Reads by the file descriptor: what a buffer held would be read again by the child.
HOST = """
import json, os, sys
from gevent.monkey import get_original
{prelude}
_fork, _waitpid = get_original("os", "fork"), get_original("os", "waitpid")
_asked = open(0, "rb", buffering=0, closefd=False)
while True:
    _line = _asked.readline()
    if not _line:
        break
    _place = json.loads(_line)
    _child = _fork()
    if not _child:
        for _number, _name in enumerate((os.devnull, _place + ".out", _place + ".err")):
            os.dup2(os.open(_name, os.O_CREAT | os.O_WRONLY if _number else os.O_RDONLY), _number)
        with open(_place) as _file:
            _text = _file.read()
        exec(compile(_text, _place, "exec"))
        break
    os.write(1, json.dumps(os.waitstatus_to_exitcode(_waitpid(_child, 0)[1])).encode() + b"\\n")
"""


class ForkHost:
    """Hold the process that forks; a program sees what `prelude` defined.

    Args:
        prelude: Source text, run once; it may import and define, not start anything.
        directory: Where programs and what they print are written.
        env: On top of the environment.
    """

    def __init__(self, prelude: str, directory: Path, env: Mapping[str, str]) -> None:
        self._directory, self._count = directory, 0
        directory.mkdir(exist_ok=True)
        file = directory / "host.py"
        file.write_text(HOST.format(prelude=prelude))
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)}
        self._process = subprocess.Popen(
            [sys.executable, str(file)],
            env={**kept, **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def run(self, program: str, *, timeout: float = 100.0) -> CleanRun:
        """Run source text in a fork; return how it ended and what it printed."""
        self._count += 1
        place = self._directory / f"program{self._count}.py"
        place.write_text(program)
        stdin, stdout = self._process.stdin, self._process.stdout
        stdin.write(json.dumps(str(place)).encode() + b"\n")
        stdin.flush()
        answered, _, _ = select.select([stdout], [], [], timeout)
        status = stdout.readline() if answered else b""
        if not status:
            self.close()
        out, err = (
            Path(f"{place}.{name}").read_text() if Path(f"{place}.{name}").exists() else ""
            for name in ("out", "err")
        )
        return CleanRun(int(status) if status else -9, out, err)

    def close(self) -> None:
        """End the process, and a program that runs on."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()
