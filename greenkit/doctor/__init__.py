"""Collect what every room has to say about this process.

The door of the doctor: it looks at the house and holds no state of it.
"""

from __future__ import annotations

from greenkit.doctor._collect import Diagnosis, collect
from greenkit.doctor._render import to_json, to_text
from greenkit.doctor._report import report

__all__ = ["Diagnosis", "collect", "report", "to_json", "to_text"]
