"""What the doctor says of whole programs: each fault named with module, file and line, and no false alarm."""

from __future__ import annotations

import importlib.util
import json

import pytest

from greenkit.testing import run_clean
from tests.process.right_programs import RIGHT
from tests.process.wrong_programs import WRONG


@pytest.fixture
def findings(tmp_path):
    """Run a case and return the findings it left behind, however it ended."""

    def run(case):
        if case.requires and importlib.util.find_spec(case.requires) is None:
            pytest.skip(f"{case.requires} is not installed")
        for name, text in case.files.items():
            (tmp_path / f"{name}.py").write_text(text)
        report = tmp_path / "report.json"
        ran = run_clean([str(tmp_path / "app.py")], env={"GREENKIT_REPORT": str(report)}, cwd=str(tmp_path))
        assert ran.returncode == 0, ran
        return json.loads(report.read_text())["findings"]

    return run


@pytest.mark.parametrize("case", WRONG, ids=lambda case: case.name)
def test_a_fault_is_named_with_its_lines(findings, case):
    """Each expected finding is there with its rule, holder, attribute, capture and import."""
    told = findings(case)
    for rule, holder, attribute, captured_at, imported_at in case.expected:
        found = [
            one for one in told if (one["rule"], one["holder"], one["attribute"]) == (rule, holder, attribute)
        ]
        assert found, [(one["rule"], one["holder"], one["attribute"]) for one in told]
        assert found[0]["severity"] != "info" or "3.13" in found[0]["message"]
        assert found[0]["captured_at"].startswith(captured_at)
        assert found[0]["imported_at"] == imported_at


@pytest.mark.parametrize("case", RIGHT, ids=lambda case: case.name)
def test_a_right_program_is_not_accused(findings, case):
    """A correct program gets no warning and no error, and none of its code is run by the look."""
    assert [one["message"] for one in findings(case) if one["severity"] != "info"] == []
