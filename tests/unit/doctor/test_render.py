from __future__ import annotations

import json

from greenkit.boot import PatchReport
from greenkit.doctor import Diagnosis, to_json, to_text
from greenkit.findings import Finding, Severity

STALE = Finding("GK101", Severity.ERROR, "x.sleep holds it", hint="do that", where="x.py:1")
EARLY = Finding("GK102", Severity.INFO, "ssl was early", evidence=("ssl: a.py:3",))
DIAGNOSIS = Diagnosis(PatchReport(patched=True, by="p.py:1", seconds=0.05), (EARLY, STALE), {})


def test_the_text_ends_with_the_verdict():
    """Gravest first, the hint under its finding, the counts last."""
    assert to_text(DIAGNOSIS).splitlines() == [
        "patched by p.py:1 in 50 ms",
        "GK101 error: x.sleep holds it  (x.py:1)",
        "    -> do that",
        "GK102 info: ssl was early",
        "    ssl: a.py:3",
        "1 info, 0 warning, 1 error",
    ]


def test_the_json_is_one_object():
    """Programs get plain values and the same findings."""
    told = json.loads(to_json(DIAGNOSIS))
    assert told["patched"] is True
    assert [found["id"] for found in told["findings"]] == ["GK102", "GK101"]
    assert told["findings"][1]["severity"] == "error"


def test_only_errors_count_as_errors():
    """The exit code of the doctor hangs on these."""
    assert DIAGNOSIS.errors == (STALE,)
