"""What the doctor knows, as values: a `Diagnosis`, and the JSON document it travels in.

The process that is looked at writes the document, the one that asked reads it: they are two,
because a target may hang, kill itself or print where the report should be.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from greenkit.doctor._pages import page_of
from greenkit.doctor._secrets import without_secrets
from greenkit.findings import Finding, Severity, worst

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SCHEMA", "Diagnosis", "Ended", "Measured", "finding_from", "from_document", "hidden", "to_json"]

SCHEMA = 1
"""Version of the JSON document; it grows when a name of it changes its meaning or goes."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Tell how an observed program ended.

    Attributes:
        command: The words it was started with.
        how: "exit", "signal" (one that was not ours), "interrupted" (one that was passed on),
            "timeout" or "stalled" (ended by the doctor).
        code: Its exit status; negative is the signal that killed it.
    """

    command: tuple[str, ...]
    how: str
    code: int


@dataclass(frozen=True, slots=True)
class Measured:
    """Tell what one active probe measured.

    Attributes:
        api: What was called: `time.sleep`, `ssl handshake`.
        verdict: "cooperates", "blocks", "hangs", "fails" or "skipped".
        waited_ms: Milliseconds the call took.
        blocked_ms: The longest the other greenlets stood still meanwhile, in milliseconds.
        note: Why it was skipped, or what it raised.
    """

    api: str
    verdict: str
    waited_ms: float = 0.0
    blocked_ms: float = 0.0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """State what was seen in a process, or in the processes of a program.

    Attributes:
        findings: What the rooms found.
        patched: gevent has patched it.
        by: `file:line` of whoever asked for the patch, "" when unknown.
        seconds: How long the patch took.
        repaired: Names that were bound again.
        live: {kind: {name: statistics}} of limiters, pools and connections.
        subject: What was looked at, in the user's words; "" for this process.
        problem: Why nothing, or not everything, could be looked at; "" when all was.
        trace: The user's frames of the exception that is the problem.
        ended: How the observed program ended; None when none was started.
        probes: What active probes measured.
        processes: pid, command line and patch of each process that was seen.
        accepted: How many findings the baseline took away.
        gone: Entries of the baseline that were not found any more.
    """

    findings: tuple[Finding, ...] = ()
    patched: bool = False
    by: str = ""
    seconds: float = 0.0
    repaired: tuple[str, ...] = ()
    live: Mapping[str, Any] = field(default_factory=dict)
    subject: str = ""
    problem: str = ""
    trace: tuple[str, ...] = ()
    ended: Ended | None = None
    probes: tuple[Measured, ...] = ()
    processes: tuple[Mapping[str, Any], ...] = ()
    accepted: int = 0
    gone: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """Return 2 when it could not look, 1 for a warning or an error, else 0."""
        if self.problem:
            return 2
        return 1 if worst(self.findings) in {Severity.WARNING, Severity.ERROR} else 0

    @property
    def verdict(self) -> str:
        """Return "unknown", or the gravest severity, or "clean"."""
        gravest = worst(self.findings)
        return "unknown" if self.problem else gravest.value if gravest else "clean"


def to_json(diagnosis: Diagnosis) -> str:
    """Return `diagnosis` as the one JSON object of `docs/reference/doctor.md`."""
    document: dict[str, Any] = {
        "version": SCHEMA,
        "greenkit": sys.modules["greenkit"].__version__,
        "python": ".".join(str(part) for part in sys.version_info[:3]),
        "verdict": diagnosis.verdict,
        "exit_code": diagnosis.exit_code,
    }
    for one in fields(diagnosis):
        document[one.name] = getattr(diagnosis, one.name)
    document["ended"] = asdict(diagnosis.ended) if diagnosis.ended else None
    document["probes"] = [asdict(one) for one in diagnosis.probes]
    document["findings"] = [
        {**found._asdict(), "severity": found.severity.value, "docs": page_of(found.id)}
        for found in diagnosis.findings
    ]
    return json.dumps(without_secrets(document), default=repr)


def hidden(diagnosis: Diagnosis) -> Diagnosis:
    """Return `diagnosis` without passwords, as it may be shown."""
    ended = diagnosis.ended
    return replace(
        diagnosis,
        findings=without_secrets(diagnosis.findings),
        by=without_secrets(diagnosis.by),
        subject=without_secrets(diagnosis.subject),
        problem=without_secrets(diagnosis.problem),
        trace=without_secrets(diagnosis.trace),
        ended=ended and replace(ended, command=without_secrets(ended.command)),
        probes=tuple(replace(one, note=without_secrets(one.note)) for one in diagnosis.probes),
        processes=without_secrets(diagnosis.processes),
    )


def from_document(document: Mapping[str, Any]) -> Diagnosis:
    """Return the diagnosis `document` was made from; what it does not say is as in an empty one."""
    known = {one.name: document[one.name] for one in fields(Diagnosis) if one.name in document}
    for name, kind in (("repaired", str), ("trace", str), ("gone", str), ("processes", dict)):
        known[name] = tuple(kind(one) for one in known.get(name, ()))
    known["findings"] = tuple(finding_from(one) for one in known.get("findings", ()))
    known["probes"] = tuple(Measured(**one) for one in known.get("probes", ()))
    ended = known.get("ended")
    known["ended"] = Ended(tuple(ended["command"]), ended["how"], ended["code"]) if ended else None
    return Diagnosis(**known)


def finding_from(plain: Mapping[str, Any]) -> Finding:
    """Return the finding a document describes; names it does not know are left out."""
    known = {name: plain[name] for name in Finding._fields if name in plain}
    known["severity"] = Severity(known["severity"])
    known["evidence"] = tuple(known.get("evidence", ()))
    return Finding(**known)
