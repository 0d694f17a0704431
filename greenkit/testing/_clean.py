"""Run code in a clean interpreter: the only true test of import order.

A process that already runs pytest has imported half of the library; import order
needs a fresh one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greenkit.errors import WaitTimeout

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["CleanRun", "run_clean"]

# Variables of greenkit's settings and of tools that hook into start-up.
_NOT_INHERITED = (
    "GREENKIT",
    "GEVENT_",
    "COV_CORE_",
    "PYTEST_",
    "PYTHONSTARTUP",
    "PYTHONWARNINGS",
    "DJANGO_",
    "CELERY_",
)


@dataclass(frozen=True, slots=True)
class CleanRun:
    """Hold a program's exit status and output.

    Attributes:
        returncode: Exit status; negative is the signal that killed it.
        stdout: Its standard output.
        stderr: Its standard error.
    """

    returncode: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """Return the last line of stdout, parsed as JSON.

        Raises:
            ValueError: It is not JSON; the message has both outputs.
        """
        lines = self.stdout.strip().splitlines()
        try:
            return json.loads(lines[-1])
        except (IndexError, ValueError):
            raise ValueError(f"the last line printed is no JSON\n{self}") from None

    def __str__(self) -> str:
        return f"status {self.returncode}\n-- stdout\n{self.stdout}\n-- stderr\n{self.stderr}"


def run_clean(
    program: str | Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    timeout: float = 60.0,
    cwd: str | None = None,
) -> CleanRun:
    """Run source text, or arguments for the interpreter, in a fresh Python of this environment.

    Args:
        program: Source text, run from a file (`__main__` has one, tracebacks show lines), or what would
            follow `python` on a command line, such as `["-m", "greenkit", "doctor"]`.
        env: Added to the environment; what configures greenkit, gevent, pytest, Django or Celery is
            not inherited.
        timeout: Seconds it may take before it is killed.
        cwd: Where it runs; the current directory when None.

    Raises:
        WaitTimeout: It took longer; the message carries what it printed until then.

    Switches: may
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)}
    whole = {**kept, **(env or {})}
    if not isinstance(program, str):
        return _run([sys.executable, *program], whole, timeout, cwd)
    with tempfile.TemporaryDirectory(prefix="greenkit-clean-") as directory:
        path = Path(directory, "program.py")
        path.write_text(program, encoding="utf-8")
        return _run([sys.executable, str(path)], whole, timeout, cwd)


def _run(argv: list[str], env: dict[str, str], timeout: float, cwd: str | None) -> CleanRun:
    child = subprocess.Popen(
        argv,
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = child.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        child.kill()
        out, err = child.communicate()
        left = CleanRun(-9, out, err)
        raise WaitTimeout(f"{' '.join(argv)} was killed after {timeout:g} s\n{left}") from None
    except BaseException:
        child.kill()
        child.communicate()
        raise
    return CleanRun(child.returncode, out, err)
