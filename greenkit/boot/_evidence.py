"""What is not as it should be after the patch, as findings.

Looks and never changes anything. Each finding's id has a heading in `docs/reference/findings.md`.
"""

from __future__ import annotations

import os
import sys
from types import BuiltinFunctionType

from greenkit.boot._caller import imports_of
from greenkit.boot._launch import decide
from greenkit.boot._plan import PLAN
from greenkit.boot._record import RECORD
from greenkit.boot._scan import StaleReference, stale_references
from greenkit.boot._severity import EFFECTS
from greenkit.findings import Finding, Severity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["evidence", "findings_about", "is_patched"]

_FIRST_LINE = 'Make "import greenkit.auto" line 1 of the program, or start it with "greenkit run -- …".'


def is_patched() -> bool:
    """Tell whether gevent has patched threads and sockets of this process."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and "socket" in monkey.saved and "threading" in monkey.saved


def evidence() -> tuple[Finding, ...]:
    """Return what is wrong with the patch of this process; () when nothing is.

    Reads modules, classes and defaults by identity and evaluates nothing.

    Switches: never.
    """
    return findings_about(stale_references())


def findings_about(references: Iterable[StaleReference]) -> tuple[Finding, ...]:
    """Return the evidence, given a scan that was made already: it is the costly part."""
    if not is_patched():
        return tuple(_unpatched())
    return (*_half_patched(), *_undone(), *_stale(references), *_early(), *_circumstances())


def _unpatched() -> Iterator[Finding]:
    decision = decide(sys.argv, os.environ, orig_argv=sys.orig_argv, loaded=sys.modules)
    if decision.worker and decision.patch:
        yield Finding(
            "GK104",
            Severity.ERROR,
            f"this worker's pool is {decision.pool}, but the process is not patched;"
            " it takes tasks and never runs them",
            hint="Start it with: greenkit celery " + " ".join(sys.argv[1:]),
        )
    else:
        yield Finding(
            "GK103", Severity.INFO, f"this process is not patched ({decision.reason})", hint=_FIRST_LINE
        )


def _half_patched() -> Iterator[Finding]:
    saved = sys.modules["gevent.monkey"].saved
    for step in PLAN:
        module = step.modules[0]
        if step.proof not in saved.get(module, ()):
            yield Finding(
                "GK105",
                Severity.ERROR,
                f"{module}.{step.proof} is not patched although others are; {step.reason}",
                hint="Call patch_all() without arguments, or let greenkit.boot.patch() do it.",
                where=RECORD.by,
            )


def _undone() -> Iterator[Finding]:
    for (module, attribute), installed in RECORD.installed.items():
        if (module, attribute) not in EFFECTS or installed is None:
            continue
        live = getattr(sys.modules.get(module), attribute, installed)
        original = sys.modules["gevent.monkey"].saved.get(module, {}).get(attribute)
        # A mock started before the patch makes gevent save the mock; what it puts back is C code.
        native = type(live) is BuiltinFunctionType and type(installed) is not BuiltinFunctionType
        if live is not installed and (live is original or native):
            yield Finding(
                "GK106",
                Severity.ERROR,
                f"{module}.{attribute} was put back after the patch and {EFFECTS[module, attribute][1]}",
                hint="Look for a mock or a library that saves and restores it around the patch.",
            )


def _stale(references: Iterable[StaleReference]) -> Iterator[Finding]:
    for reference in references:
        severity, effect = EFFECTS[reference.original]
        original = ".".join(reference.original)
        if reference.deliberate:
            severity, effect = Severity.INFO, "was asked for after the patch, so it is taken as meant"
        elif severity is Severity.ERROR and reference.form == "base class":
            effect = f"is a subclass of the unpatched class and {effect}"
        yield Finding(
            "GK101",
            severity,
            f"{reference.holder} ({reference.form}) holds the original {original}: it {effect}",
            hint=_FIRST_LINE
            + f" Until then: write {original}() where it is used, instead of importing the name.",
            where=_captured_at(reference),
        )


def _captured_at(reference: StaleReference) -> str:
    module = sys.modules.get(reference.module)
    file = str(getattr(module, "__file__", None) or "")
    if not file.endswith(".py"):
        return ""
    # A re-export (`socket` through a compatibility module) has no such line: the file must do.
    wanted = {".".join(reference.original), f"{reference.original[0]}.{reference.attribute}"}
    line = next((line for line, name in imports_of(file) if name in wanted), 0)
    return f"{file}:{line}" if line else file


def _early() -> Iterator[Finding]:
    if RECORD.early:
        names = ", ".join(module.name for module in RECORD.early)
        chain = tuple(f"{m.name}: {m.importer or 'importer unknown'}" for m in RECORD.early)
        yield Finding(
            "GK102",
            Severity.INFO,
            f"{len(RECORD.early)} patchable modules were imported before the patch: {names}",
            hint=_FIRST_LINE,
            where=RECORD.by,
            evidence=chain,
        )


def _circumstances() -> Iterator[Finding]:
    if RECORD.native_threads:
        yield Finding(
            "GK107",
            Severity.WARNING,
            f"{len(RECORD.native_threads)} native threads ran during the patch:"
            f" {', '.join(RECORD.native_threads)}; gevent then leaves the existing locks as they are",
            hint="Patch before anything starts a thread.",
            where=RECORD.by,
        )
    for text in RECORD.warnings:
        yield Finding("GK108", Severity.WARNING, f"gevent says: {text}", hint=_FIRST_LINE, where=RECORD.by)
