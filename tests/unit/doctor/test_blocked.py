"""What a block of the hub means, by whose code it is in."""

from __future__ import annotations

import json

import pytest

from greenkit.boot import _remedy
from greenkit.doctor import _blocked, _files
from greenkit.doctor._reporter import _Reporter
from greenkit.facts import COLLECTOR, HubBlocked


def block(where, *, computed, starved=0.0, call="", startup=""):
    return HubBlocked(
        2.0, f"{where} view", (), module="shop", function="view", call=call,
        computed=computed, starved=starved, startup=startup,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("where", "call", "computed", "severity", "said"),
    [
        (__file__ + ":1", "", 1.9, "error", "Python code that computes"),
        (json.__file__ + ":1", "", 1.9, "info", "Python code that computes"),
        (json.__file__ + ":1", "", 0.0, "error", "a call in C"),
        (json.__file__ + ":1", "time.sleep", 0.0, "error", "time.sleep"),
    ],
)
def test_a_package_that_computes_is_no_error_of_the_project(
    monkeypatch, where, call, computed, severity, said
):
    """No line of the project is in it, so there is nothing to split; a wait is an error wherever it is."""
    monkeypatch.setattr(_blocked.boot, "patched", lambda: True)
    monkeypatch.setattr(_blocked.boot, "is_users_file", lambda file: file == __file__)
    found = _blocked.about_block(block(where, computed=computed, call=call))
    assert found.severity.value == severity
    assert said in found.message


def test_a_starved_import_is_the_start():
    """An import that had no processor most of the time computed in the rest of it."""
    assert _blocked.is_startup(block("app.py:1", computed=0.1, starved=1.6, startup="an import"))
    assert not _blocked.is_startup(block("app.py:1", computed=0.1, starved=0.1, startup="an import"))


def test_the_hint_names_the_file_of_the_project(monkeypatch):
    """Where nothing is patched it is the script that was started."""
    monkeypatch.setattr(_blocked.boot, "patched", lambda: False)
    monkeypatch.setattr(_remedy, "entry_file", lambda: "shop/celery.py")
    hint = _blocked.about_block(block("app.py:1", computed=0.0)).hint
    assert hint.startswith('Make "import greenkit.auto" line 1 of shop/celery.py, ')


def test_a_garbage_collection_is_information():
    """No line of the program caused it: one note, about the longest."""
    found = _blocked.about_collection(block("app.py:1", computed=1.9, call=COLLECTOR))
    assert found.severity.value == "info"
    assert "garbage collections held the hub; the longest, for 2.00 s, came in app.py:1 view" in found.message


def test_the_doctor_never_accuses_itself():
    """A hub that stands still in the doctor's own lines was stopped by its look."""
    reporter = _Reporter()
    reporter.blocked(block(f"{_files.__file__}:41", computed=1.9))
    assert not reporter.running
