"""The first and the last line of the report: what was looked at, how it is, what to do next."""

from __future__ import annotations

import os

from greenkit.findings import Severity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from greenkit.doctor._diagnosis import Diagnosis, Ended

__all__ = ["counts", "how_it_ended", "next_step", "seen"]


def seen(diagnosis: Diagnosis) -> str:
    """Return what was looked at and how it was patched."""
    subject = diagnosis.subject or "this process"
    said = f"{subject}: "
    if diagnosis.problem and not diagnosis.patched and diagnosis.ended is None:
        return said + "not started."
    if diagnosis.patched:
        took = f" in {diagnosis.seconds * 1000:.0f} ms" if diagnosis.seconds else ""
        said += f"patched by {_near(diagnosis.by) or 'somebody unknown'}{took}"
    else:
        said += "not patched"
    if diagnosis.ended is not None:
        said += f"; the program {how_it_ended(diagnosis.ended)}"
    if len(diagnosis.processes) > 1:
        patched = sum(bool(one.get("patched")) for one in diagnosis.processes)
        said += f"; {patched} of {len(diagnosis.processes)} processes seen were patched"
    return said + "."


def how_it_ended(ended: Ended) -> str:
    """Return how a program ended, as a clause."""
    how = {
        "timeout": "was ended when its time was up",
        "stalled": "stood still and was ended",
        "interrupted": "was interrupted",
    }
    if ended.how in how:
        return how[ended.how]
    return f"was killed by signal {-ended.code}" if ended.code < 0 else f"ended with status {ended.code}"


def counts(diagnosis: Diagnosis, left: int = 0) -> str:
    """Return the verdict: how many of each severity, and what the baseline took away.

    Args:
        diagnosis: What was seen.
        left: How many findings are not shown.
    """
    words = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}
    parts = []
    for severity, word in words.items():
        count = sum(found.severity is severity for found in diagnosis.findings)
        parts.append(f"{count} {word}{'' if count == 1 else 's'}")
    said = ", ".join(parts)
    if not diagnosis.findings:
        said = "No verdict" if diagnosis.problem else "Nothing found"
    if left:
        said += f", {left} of them not shown (--all)"
    if diagnosis.accepted:
        said += f", {diagnosis.accepted} accepted by the baseline"
    if diagnosis.gone:
        said += f" ({len(diagnosis.gone)} of its entries are no longer found: write it anew)"
    return said + "."


def next_step(diagnosis: Diagnosis) -> str:
    """Return the command to type now, "" when there is nothing to do."""
    if diagnosis.problem:
        return "Mend that first, then ask again."
    if diagnosis.exit_code:
        command = _command(diagnosis)
        if command:
            return f"Next: {command}"
        entry = _entry(diagnosis)
        if entry:
            return f"Next: greenkit doctor --fix {_near(entry)}"
        return "Next: mend the first one above, then ask again."
    if not diagnosis.patched or diagnosis.ended is not None:
        return ""
    if diagnosis.subject.endswith(".py"):
        return f"Its own order of imports: greenkit doctor -- python {diagnosis.subject}"
    return "A program's own order of imports: greenkit doctor -- COMMAND"


def _command(diagnosis: Diagnosis) -> str:
    """Return the command that cures the gravest finding, where no line of a file does."""
    grave = [found for found in diagnosis.findings if found.severity is Severity.ERROR]
    hint = next((found.hint for found in grave), "")
    return hint.partition("Start it with: ")[2] if hint.startswith("Line 1 of ") else ""


def _entry(diagnosis: Diagnosis) -> str:
    """Return the file whose first line should change: the one the hint names."""
    for found in diagnosis.findings:
        file = found.hint.partition("line 1 of ")[2].partition(",")[0]
        # Places are shown from where Python found them: only what is there from here can be mended.
        if found.imported_at and file.endswith(".py") and os.path.isfile(file):  # noqa: PTH113
            return file
    return ""


def _near(place: str) -> str:
    return place.replace(os.getcwd() + os.sep, "")  # noqa: PTH109
