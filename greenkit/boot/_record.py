"""The one record a process keeps of how it was patched.

Written by `_patch` and `_events`, read by everybody else. Nothing here decides anything.
"""

from __future__ import annotations

from dataclasses import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from greenkit.findings import Finding

__all__ = ["RECORD", "EarlyModule", "PatchReport", "Record"]


@dataclass(frozen=True, slots=True)
class EarlyModule:
    """Name a patchable module that was imported before the patch.

    Attributes:
        name: The module gevent patches.
        importer: `file:line (import x)` of the user's import that brought it, or "".
    """

    name: str
    importer: str = ""


@dataclass(frozen=True, slots=True)
class PatchReport:
    """State what `patch()` found and did; the first one is the only one.

    Attributes:
        patched: The process is cooperative now.
        by: `file:line` of whoever asked for the patch (Celery's, when Celery patched).
        early: Patchable modules that were imported before the patch.
        findings: What the evidence says about this process.
        repaired: Names that were bound again, as `module.attribute`.
        seconds: How long patching took, without the evidence.
    """

    patched: bool
    by: str = ""
    early: tuple[EarlyModule, ...] = ()
    findings: tuple[Finding, ...] = ()
    repaired: tuple[str, ...] = ()
    seconds: float = 0.0


class Record:
    """Hold what is known about the patch of this process."""

    __slots__ = (
        "by",
        "early",
        "installed",
        "modules",
        "native_threads",
        "report",
        "seconds",
        "started",
        "warnings",
    )

    def __init__(self) -> None:
        self.by = ""
        self.early: tuple[EarlyModule, ...] = ()
        self.started: float | None = None
        self.seconds = 0.0
        # (module, attribute) -> what the patch put there; tells later who undid it.
        self.installed: dict[tuple[str, str], object] = {}
        # Who was loaded when the patch was done: a later holder of an original asked for it.
        self.modules: frozenset[str] = frozenset()
        self.native_threads: tuple[str, ...] = ()
        self.warnings: tuple[str, ...] = ()
        self.report: PatchReport | None = None


RECORD = Record()
"""The record of this process: one, because a process is patched once."""
