"""The result type of all greenkit checks.

A `Finding` has an id that never changes (each has a heading in `docs/reference/findings.md`),
says what was seen with its values, and has a hint that can be pasted. Packages make findings;
the doctor, Django's checks and Celery's bootstep show them. Loads nothing gevent patches.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Finding", "Severity", "render", "worst"]


class Severity(Enum):
    """Grade a finding by its effect on the process."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Finding(NamedTuple):
    """Hold one result of a check.

    Attributes:
        id: Stable id: `GK1xx` boot, `GK2xx` limits, `GK3xx` postgres, `GK4xx` watchdog,
            `GK5xx` celery, `GK6xx` django, `GK7xx` http.
        severity: How bad its effect is, not how certain the check is.
        message: What was seen, with values, and its cost.
        hint: The next step, ready to paste.
        where: `file:line` of the user's code that caused it, or "" when unknown.
        evidence: Further lines, such as a chain of importers.
        rule: The kind of mistake, a stable word: "stale-reference", "native-lock".
        effect: What it causes: "blocks-hub", "deadlocks", "hangs", "crashes", "leaks-state",
            "no-exclusion", "wrong-identity"; "" when the rule has no such effect.
        holder: The module that holds it, or whose function blocks.
        attribute: Dotted path inside the holder's module, or the name of the function.
        original: What is held or called: `time.sleep`, `_thread.lock`.
        form: How it is held: "module global", "closure cell", "base class".
        captured_at: `file:line` where the reference was taken, the object made or the call is.
        imported_at: `file:line` of the user's import that brought the holder too early.
        patched_at: `file:line` that called for the patch.
    """

    id: str
    severity: Severity
    message: str
    hint: str = ""
    where: str = ""
    evidence: tuple[str, ...] = ()
    rule: str = ""
    effect: str = ""
    holder: str = ""
    attribute: str = ""
    original: str = ""
    form: str = ""
    captured_at: str = ""
    imported_at: str = ""
    patched_at: str = ""


_RANK = {Severity.INFO: 0, Severity.WARNING: 1, Severity.ERROR: 2}


def worst(findings: Iterable[Finding]) -> Severity | None:
    """Return the gravest severity among `findings`, or None when there are none."""
    return max((f.severity for f in findings), key=_RANK.__getitem__, default=None)


def render(findings: Iterable[Finding]) -> str:
    """Return `findings` as lines for a terminal or a log, gravest first; "" when there are none."""
    lines = []
    for found in sorted(findings, key=lambda f: -_RANK[f.severity]):
        # Name the project's import too: the user cannot change the library's line.
        brought = f"imported by {found.imported_at}" if found.imported_at else ""
        place = ", ".join(filter(None, [found.where, brought]))
        place = f"  ({place})" if place else ""
        lines.append(f"{found.id} {found.severity.value}: {found.message}{place}")
        lines.extend(f"    {line}" for line in found.evidence)
        if found.hint:
            lines.append(f"    -> {found.hint}")
    return "\n".join(lines)
