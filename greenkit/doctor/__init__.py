"""Collect what every room has to say about this process, or about a program that is started for it.

The door of the doctor: it looks at the house and holds no state of it. It is lazy: an observed program has
it inside before its own first line, and loads no more of it than looks.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
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

_FILES = {
    "Diagnosis": "_diagnosis",
    "Ended": "_diagnosis",
    "Fix": "_fix",
    "Measured": "_diagnosis",
    "accept": "_baseline",
    "collect": "_collect",
    "examine": "_examine",
    "explanation": "_explain",
    "fix_text": "_fix",
    "from_document": "_diagnosis",
    "observe": "_observe",
    "page_of": "_pages",
    "probe": "_collect",
    "report": "_report",
    "to_json": "_diagnosis",
    "to_text": "_render",
    "with_probes": "_collect",
    "write_baseline": "_baseline",
}


def __getattr__(name: str) -> object:
    file = _FILES.get(name)
    if file is None:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    # Late: see the module's docstring.
    from importlib import import_module

    value: object = getattr(import_module(f"{__name__}.{file}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_FILES})
