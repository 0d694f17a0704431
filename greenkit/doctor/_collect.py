"""Ask the rooms for their findings and their numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from greenkit import boot, facts
from greenkit.findings import Finding, Severity

__all__ = ["Diagnosis", "collect"]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """State what was seen in this process at one moment.

    Attributes:
        report: How the process was patched; None when `greenkit.boot.patch` was never called.
        findings: What the rooms found.
        live: {kind: {name: statistics}} of limiters, pools and connections.
    """

    report: boot.PatchReport | None
    findings: tuple[Finding, ...]
    live: dict[str, dict[str, dict[str, Any]]]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Return the findings that are errors."""
        return tuple(found for found in self.findings if found.severity is Severity.ERROR)


def collect() -> Diagnosis:
    """Return what every room says about this process now.

    Switches: never.
    """
    return Diagnosis(report=boot.report(), findings=boot.evidence(), live=facts.snapshot())
