"""Start a program under observation, unpatched, and make one diagnosis of all its processes.

The doctor itself stays unpatched and outside. A directory first on PYTHONPATH brings its
`sitecustomize` into every Python process of the program, so it works for a script, `-m`, `celery`
and `gunicorn` alike; what the processes see comes back as files.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from greenkit.doctor import _files
from greenkit.doctor._deaths import of_status
from greenkit.doctor._diagnosis import Diagnosis, from_document, to_json
from greenkit.doctor._locks import joined_with_locks
from greenkit.doctor._observed import ASK
from greenkit.doctor._verdict import how_it_ended
from greenkit.findings import Severity, worst

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from greenkit.doctor._diagnosis import Ended
    from greenkit.findings import Finding

__all__ = ["observe"]

_SITE = str(Path(__file__).parent / "_site")


def observe(
    command: Sequence[str], *, timeout: float | None = None, stall: float = 3.0, quiet: bool = False
) -> Diagnosis:
    """Run `command` and return what was seen in its processes.

    Nothing is patched that the program does not patch. What it prints goes where ours does.

    Args:
        command: The words of the program.
        timeout: Seconds after which it is ended; None lets it run.
        stall: Seconds a hub may stand still before the program is ended; 0 lets it.
        quiet: Send its standard output to standard error.

    Switches: may.
    """
    # Late: this room is inside every observed program, and these load what gevent patches.
    import tempfile

    from greenkit.doctor._child import Child, run

    words = list(command)
    program = _find(words[0])
    if not program:
        problem = f"{words[0]!r} is no file and no command on the PATH{_near(words[0])}"
        return Diagnosis(subject=" ".join(words), problem=problem)
    with tempfile.TemporaryDirectory(prefix="greenkit-doctor-", ignore_cleanup_errors=True) as directory:
        child = Child(
            [program, *words[1:]], _environment(directory, stall, words), timeout=timeout, quiet=quiet
        )
        try:
            ended = run(child, directory=directory, ask=ASK)
        except OSError as error:
            return Diagnosis(subject=" ".join(words), problem=f"{program} cannot be run: {error.strerror}")
        diagnosis = _together(Path(directory), replace(ended, command=tuple(words)))
    if os.environ.get("GREENKIT_REPORT"):
        _files.write_report(os.environ["GREENKIT_REPORT"], to_json(diagnosis) + "\n")
    return diagnosis


def _environment(directory: str, stall: float, words: Sequence[str]) -> dict[str, str]:
    from shlex import join  # late: see observe()

    path = [_SITE, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
        "GREENKIT_OBSERVE": directory,
        "GREENKIT_OBSERVE_COMMAND": join(words),
        "GREENKIT_OBSERVE_STALL": str(stall),
    }


def _find(word: str) -> str:
    from shutil import which  # late: see observe()

    # Beside this interpreter first: the environment's command, also when it is not activated.
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return which(word, path=places) or ""


def _near(word: str) -> str:
    from difflib import get_close_matches  # late: only for a message

    close = get_close_matches(word, [path.name for path in Path(sys.executable).parent.iterdir()], 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _together(directory: Path, ended: Ended) -> Diagnosis:
    told = _told(directory)
    patched = [one for one in told if one.patched]
    first = patched[0] if patched else Diagnosis()
    findings = _each_once(found for one in told for found in one.findings)
    if ended.how != "timeout":  # whoever interrupts a program knows that it waited
        findings = [found for found in findings if found.id != "GK130"]
    if patched:  # then it says nothing that a helper process is not
        findings = [found for found in findings if found.id != "GK103"]
        findings = _joined(list(joined_with_locks(findings)))
        if not _is_well(ended) and worst(findings) not in {Severity.WARNING, Severity.ERROR}:
            findings.append(of_status(how_it_ended(ended)))
    processes = {one["pid"]: one for part in told for one in part.processes}
    return replace(
        first,
        findings=tuple(findings),
        subject=" ".join(ended.command),
        problem=_problem(directory, told, ended),
        ended=ended,
        processes=tuple(processes.values()),
    )


def _told(directory: Path) -> list[Diagnosis]:
    """Return what each process wrote; the report of one, which watches, before what a look saw."""
    told = []
    paths = sorted(
        directory.glob("*.json"),
        # What a process was ended for comes first: a later look of it may have seen it go on.
        key=lambda path: ("accused" not in path.name, int(path.name.split(".")[0]), "look" in path.name),
    )
    for path in paths:
        try:
            told.append(from_document(json.loads(path.read_text(encoding="utf-8"))))
        except (ValueError, TypeError, KeyError) as error:  # noqa: PERF203 - one bad file is not all
            _files.write(f"{path}.error", f"{path.name} cannot be read: {error!r}")
    return told


def _each_once(findings: Iterable[Finding]) -> list[Finding]:
    """Return `findings` without those another says as well or better, told by a report or by a look."""
    kept: dict[tuple[str, ...], list[Finding]] = {}
    for found in findings:
        about = (found.id, found.rule, found.holder, found.attribute) if found.holder else (found.message,)
        same = kept.setdefault(about, [])
        at = next((at for at, other in enumerate(same) if _agree(found, other)), -1)
        if at < 0:
            same.append(found)
        elif found.imported_at and not same[at].imported_at:
            # Only a look has watched the imports.
            same[at] = same[at]._replace(imported_at=found.imported_at, evidence=found.evidence)
    return [found for same in kept.values() for found in same]


def _joined(findings: list[Finding]) -> list[Finding]:
    """Return `findings`, each death joined with what explains it, and no guess beside what was seen."""
    deaths = [found for found in findings if found.message.startswith("died of ")]
    seen = {_kind(death) for death in deaths if not death.original}
    grave = {_kind(found) for found in findings if found.severity is not Severity.INFO}
    kept = [
        found
        for found in findings
        if found in deaths or not found.rule or _kind(found) not in seen
        if found.severity is not Severity.INFO or not found.rule or _kind(found) not in grave
    ]
    for death in deaths:
        causes = [found for found in kept if _explains(found, death)]
        why = min(causes, key=lambda found: found.holder != death.holder, default=None)
        if why is not None:
            # The static finding knows who holds it and since when; the death, that it matters.
            said = f"seen: the program {death.message}"
            kept[kept.index(why)] = why._replace(evidence=(said, *why.evidence))
            kept.remove(death)
    return kept


def _kind(found: Finding) -> tuple[str, str, str]:
    return found.id, found.rule, found.holder


def _explains(found: Finding, death: Finding) -> bool:
    tail = death.original.rpartition(".")[2]
    if found.message.startswith("died of ") or found.severity is not Severity.ERROR:
        return False
    return bool(tail) and found.original.rpartition(".")[2] == tail


def _is_well(ended: Ended) -> bool:
    return ended.how not in {"exit", "signal"} or not ended.code


def _agree(one: Finding, other: Finding) -> bool:
    pairs = ((one.original, other.original), (one.captured_at, other.captured_at))
    return all(a == b or not a or not b for a, b in pairs)


def _problem(directory: Path, told: Sequence[Diagnosis], ended: Ended) -> str:
    if not told:
        errors = [path.read_text(encoding="utf-8") for path in sorted(directory.glob("*.error"))]
        why = errors[0] if errors else "it ran no Python, or one with -I, -E or -S"
        return f"no process of the program could be observed ({why})"
    if ended.how in {"exit", "signal"} and ended.code and not any(one.patched for one in told):
        end = f"with status {ended.code}" if ended.code > 0 else f"by signal {-ended.code}"
        return f"the program ended {end} before anything was patched"
    return ""
