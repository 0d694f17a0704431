"""Import a target in this process, patched first, and write the diagnosis: `examine` starts it."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace

from greenkit.doctor import _files
from greenkit.doctor._collect import collect
from greenkit.doctor._diagnosis import Diagnosis, Measured, to_json
from greenkit.doctor._target import bring
from greenkit.errors import GreenkitError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

__all__ = ["main"]

_leave = os._exit


def main(options: dict[str, Any]) -> int:
    """Patch, import the target, probe when asked; write the diagnosis at every stage.

    Switches: may.
    """
    target, path = options["target"], options["path"]
    problem, trace = _patch(target)
    _files.write(path, to_json(_seen(problem, trace)))
    if target and not problem:
        _watch_the_way_out(target, path)
        problem, trace = bring(target)
    diagnosis = _seen(problem, trace)
    _files.write(path, to_json(diagnosis))
    if options["probe"] and not problem:
        # Late: it loads what gevent patches, and must be loaded patched.
        from greenkit.doctor._probe import findings_of, measure

        probes: tuple[Measured, ...] = ()
        for one in measure(options["dsn"]):
            probes = (*probes, one)
            found = (*diagnosis.findings, *findings_of(probes))
            _files.write(path, to_json(replace(diagnosis, probes=probes, findings=found)))
    return 0


def _patch(target: str) -> tuple[str, tuple[str, ...]]:
    sys.argv[:] = ["greenkit", "doctor", *filter(None, [target])]
    sys.orig_argv[:] = [sys.executable, *sys.argv]
    try:
        # Late: importing it is what patches.
        import greenkit.auto  # noqa: F401
    except GreenkitError as error:
        return str(error), ()
    return "", ()


def _seen(problem: str, trace: tuple[str, ...]) -> Diagnosis:
    return replace(collect(), by="greenkit doctor before the import", problem=problem, trace=trace)


def _watch_the_way_out(target: str, path: str) -> None:
    """Have `os._exit` write down who called it: nothing else of ours runs then."""

    def leave(status: int) -> NoReturn:
        frame = sys._getframe(1)
        place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        said = f"{target} called os._exit({status}) while it was imported"
        _files.write(path, to_json(_seen(said, (place,))))
        _leave(status)

    os._exit = leave


if __name__ == "__main__":
    code = main(json.loads(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of the target must not keep us, and what it registered for the end is not our business.
    _leave(code)
