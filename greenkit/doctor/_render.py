"""Show a diagnosis, to people and to programs."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from greenkit.findings import Severity, render

TYPE_CHECKING = False
if TYPE_CHECKING:
    from greenkit.doctor._collect import Diagnosis
    from greenkit.findings import Finding

__all__ = ["to_json", "to_text"]


def to_text(diagnosis: Diagnosis) -> str:
    """Return `diagnosis` as lines for a terminal; the last one is the verdict."""
    lines = []
    report = diagnosis.report
    if report is not None and report.patched:
        lines.append(f"patched by {report.by or 'unknown'} in {report.seconds * 1000:.0f} ms")
    if diagnosis.findings:
        lines.append(render(diagnosis.findings))
    counts = {
        severity: sum(found.severity is severity for found in diagnosis.findings) for severity in Severity
    }
    lines.append(", ".join(f"{count} {severity.value}" for severity, count in counts.items()))
    return "\n".join(lines)


def to_json(diagnosis: Diagnosis) -> str:
    """Return `diagnosis` as one JSON object with `patched`, `by`, `findings` and `live`."""
    report = diagnosis.report
    return json.dumps(
        {
            "patched": report is not None and report.patched,
            "by": report.by if report else "",
            "seconds": report.seconds if report else 0.0,
            "repaired": list(report.repaired) if report else [],
            "findings": [_plain(found) for found in diagnosis.findings],
            "live": diagnosis.live,
        }
    )


def _plain(found: Finding) -> dict[str, Any]:
    return {**asdict(found), "severity": found.severity.value}
