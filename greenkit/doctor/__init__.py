"""Collect what every room has to say about this process, or about a program that is started for it.

The door of the doctor: it looks at the house and holds no state of it. It loads nothing gevent
patches: an observed program has it inside before its own first line.
"""

from __future__ import annotations

from greenkit.doctor._baseline import accept, write_baseline
from greenkit.doctor._collect import collect, probe, with_probes
from greenkit.doctor._diagnosis import Diagnosis, Ended, Measured, from_document, to_json
from greenkit.doctor._examine import examine
from greenkit.doctor._explain import explanation
from greenkit.doctor._fix import Fix, fix_text
from greenkit.doctor._observe import observe
from greenkit.doctor._pages import page_of
from greenkit.doctor._render import to_text
from greenkit.doctor._report import report

__all__ = [
    "Diagnosis",
    "Ended",
    "Fix",
    "Measured",
    "accept",
    "collect",
    "examine",
    "explanation",
    "fix_text",
    "from_document",
    "observe",
    "page_of",
    "probe",
    "report",
    "to_json",
    "to_text",
    "with_probes",
    "write_baseline",
]
