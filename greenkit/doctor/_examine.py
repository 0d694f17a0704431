"""Import a target in a patched process of its own, and read what that process wrote.

A process of its own because a target may hang, print, ask for input, start threads or end the
process it is imported in.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from greenkit.doctor import _files
from greenkit.doctor._diagnosis import Diagnosis, from_document

TYPE_CHECKING = False
if TYPE_CHECKING:
    from greenkit.doctor._diagnosis import Ended

__all__ = ["examine"]


def examine(
    target: str = "", *, timeout: float | None = None, probe: bool = False, dsn: str = ""
) -> Diagnosis:
    """Return the diagnosis of a patched process that imports `target`.

    Args:
        target: A module, "module:name", or a script, which is imported and not run; "" imports
            nothing.
        timeout: Seconds the import may take; None for a minute.
        probe: Also call the suspect functions and measure whom they stop.
        dsn: Address of a Postgres for the probes.

    Switches: may.
    """
    # Late: this room is inside every observed program, and these load what gevent patches.
    import tempfile

    from greenkit.doctor._child import Child, run

    subject = target or "a process with nothing in it"
    limit = 60.0 if timeout is None else timeout
    with tempfile.TemporaryDirectory(prefix="greenkit-doctor-", ignore_cleanup_errors=True) as directory:
        path = str(Path(directory, "examined"))
        options = json.dumps({"target": target, "path": path, "probe": probe, "dsn": dsn})
        command = [sys.executable, "-m", "greenkit.doctor._examined", options]
        environment = {**os.environ, "_GREENKIT_EXAMINE": directory}
        child = Child(command, environment, timeout=limit, begins=path, quiet=True, deaf=True)
        ended = run(child, directory=directory)
        text = _files.read(path)
    if not text:
        return Diagnosis(subject=subject, problem=f"the process ended before it could tell: {_end(ended)}")
    diagnosis = replace(from_document(json.loads(text)), subject=subject)
    if ended.how == "timeout":
        return replace(
            diagnosis, problem=f"{_doing(diagnosis, target)} took longer than {limit:g} s and was ended"
        )
    if ended.code and not diagnosis.problem:
        return replace(diagnosis, problem=f"{subject} ended the process it was imported in: {_end(ended)}")
    return diagnosis


def _doing(diagnosis: Diagnosis, target: str) -> str:
    return f"importing {target}" if not diagnosis.probes else "probing"


def _end(ended: Ended) -> str:
    return f"killed by signal {-ended.code}" if ended.code < 0 else f"status {ended.code}"
