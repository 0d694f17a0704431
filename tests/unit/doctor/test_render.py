from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest

from greenkit.doctor import Diagnosis, Ended, Measured, from_document, to_json, to_text
from greenkit.findings import Finding, Severity


def stale(name: str, **others: str) -> Finding:
    told = {
        "rule": "stale-reference", "effect": "blocks-hub", "holder": "shop.jobs", "attribute": name,
        "original": "time.sleep", "form": "module global", "captured_at": "jobs.py:1",
        "imported_at": "app.py:2", "patched_at": "app.py:3", "hint": "make it line 1 of app.py, or wait",
    }  # fmt: skip
    return Finding("GK101", Severity.ERROR, f"shop.jobs.{name} is stale", **{**told, **others})


EARLY = Finding("GK102", Severity.INFO, "ssl was early", evidence=("ssl: a.py:3",))
UNDONE = Finding("GK106", Severity.WARNING, "time.sleep was put back", hint="look for a mock", where="m.py:9")
DIAGNOSIS = Diagnosis((EARLY, UNDONE, stale("nap")), patched=True, by="p.py:1", seconds=0.05, subject="shop")


def test_the_text_is_for_people(tmp_path, monkeypatch):
    """What was looked at, the gravest first with its place and its fix, the verdict last."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "app.py").touch()
    assert to_text(DIAGNOSIS).splitlines() == [
        "shop: patched by p.py:1 in 50 ms.",
        "",
        "ERROR  GK101  app.py:2 imports too early: one thing still holds what the patch replaced.",
        "    - jobs.py:1: shop.jobs.nap (module global) is time.sleep, which stops every greenlet while it",
        "      waits",
        "    patched at:  app.py:3",
        "    fix:         make it line 1 of app.py, or wait",
        "    read:        greenkit explain GK101",
        "",
        "WARNING  GK106  time.sleep was put back",
        "    at:          m.py:9",
        "    fix:         look for a mock",
        "    read:        greenkit explain GK106",
        "",
        "INFO  GK102  ssl was early",
        "    ssl: a.py:3",
        "",
        "1 error, 1 warning, 1 note.  Next: greenkit doctor --fix app.py",
    ]


def test_one_import_is_told_once():
    """Twenty names that one import line explains are one paragraph, one fix and one page."""
    many = Diagnosis(tuple(stale(f"n{at:02}") for at in range(20)), patched=True)
    text = to_text(many)
    assert text.count("app.py:2 imports too early: 20 things still hold") == 1
    assert text.count("fix:") == text.count("read:") == 1
    assert "- and 12 more" in text
    two = Diagnosis((stale("a"), stale("b", imported_at="/x/other.py:1")))
    assert to_text(two).count("imports too early") == 2


@pytest.mark.parametrize("width", [40, 60, 100])
def test_lines_fit_the_terminal(width):
    """Prose is wrapped; a path is not broken."""
    long = Finding("GK103", Severity.WARNING, "word " * 60, hint="do " * 60)
    lines = to_text(Diagnosis((long,)), width=width).splitlines()
    assert max(len(line) for line in lines[:-1] if "docs/" not in line) <= width


def test_colour_only_when_asked():
    """No escape unless the caller knows that a terminal reads it."""
    assert "\033" not in to_text(DIAGNOSIS)
    assert "\033[1;31mERROR\033[0m" in to_text(DIAGNOSIS, color=True)


def test_the_json_is_one_object_that_can_be_read_back():
    """Programs get plain values, the fields of each finding and its page; nothing is lost."""
    whole = replace(
        DIAGNOSIS,
        trace=("a.py:1",),
        ended=Ended(("python", "a.py"), "exit", 3),
        probes=(Measured("time.sleep", "blocks", 60.0, 58.0),),
        processes=({"pid": 1, "argv": ["a"], "patched": True},),
        live={"pool": {"p": {"size": 1}}},
    )
    told = json.loads(to_json(whole))
    assert told["version"] == 1
    assert (told["verdict"], told["exit_code"], told["patched"]) == ("error", 1, True)
    assert told["findings"][2]["docs"] == "docs/reference/findings-boot.md#gk101"
    names = "id rule severity effect holder attribute original form captured_at imported_at patched_at hint"
    assert set(told["findings"][0]) == {*names.split(), "message", "where", "evidence", "docs"}
    back = from_document(told)
    assert [getattr(back, one.name) for one in fields(back)] == [
        getattr(whole, one.name) for one in fields(whole)
    ]


@pytest.mark.parametrize(
    ("diagnosis", "code", "verdict"),
    [
        (Diagnosis(), 0, "clean"),
        (Diagnosis((EARLY,)), 0, "info"),
        (Diagnosis((UNDONE,)), 1, "warning"),
        (DIAGNOSIS, 1, "error"),
        (replace(DIAGNOSIS, problem="it does not import"), 2, "unknown"),
    ],
)
def test_the_exit_code_says_how_bad_it_is(diagnosis, code, verdict):
    """0 for nothing or information, 1 for more, 2 when it could not look."""
    assert (diagnosis.exit_code, diagnosis.verdict) == (code, verdict)


def test_a_document_that_says_less_is_read():
    """Findings alone are enough; a field of tomorrow is left out."""
    plain = {"findings": [{"id": "GK101", "severity": "error", "message": "m", "colour": "red"}]}
    assert from_document(plain).findings == (Finding("GK101", Severity.ERROR, "m"),)


def test_what_was_seen_comes_first():
    """Of two errors the one that was seen to do harm, whatever else is known of the other."""
    died = Finding(
        "GK124", Severity.ERROR, "died of BlockingIOError at a.py:1: it waits", holder="mp", rule="x"
    )
    text = to_text(Diagnosis((stale("a"), stale("b"), died)))
    assert text.index("BlockingIOError") < text.index("imports too early")
    seen = stale("c", imported_at="late.py:1")._replace(evidence=("seen: the hub stood still for 2 s",))
    text = to_text(Diagnosis((stale("a"), stale("b"), seen)))
    assert text.index("late.py:1") < text.index("app.py:2")
    assert "seen: the hub stood still" in text


def test_a_fix_a_page_and_a_place_are_said_once():
    """Many causes of one kind share their fix; a stack does not repeat the place it begins at."""
    first = 'Make "import greenkit.auto" line 1.'
    found = [
        stale(f"n{at}", imported_at=f"m{at}.py:1", hint=f"{first} Until then write x{at}().")
        for at in range(3)
    ]
    text = to_text(Diagnosis(tuple(found)))
    assert text.count(first) == text.count("greenkit explain GK101") == text.count("patched at:") == 1
    block = Finding(
        "GK401", Severity.ERROR, "stood", where="/x/a.py:3", captured_at="a.py:3", holder="a", rule="r",
        evidence=("/x/a.py:3 f", "/x/b.py:4 g"),
    )  # fmt: skip
    text = to_text(Diagnosis((block,)))
    assert text.count("a.py:3") == 1
    assert "b.py:4 g" in text


def test_information_says_what_it_is_about():
    """Not "13 times stale-reference.": who, in one line for each kind."""
    notes = tuple(stale(f"n{at:02}")._replace(severity=Severity.INFO) for at in range(13))
    lines = to_text(Diagnosis(notes, patched=True), width=200).splitlines()
    about = "shop.jobs.n00, shop.jobs.n01, shop.jobs.n02 and 10 more"
    assert f"INFO  GK101  13 times an original kept from before the patch: {about}" in lines


@pytest.mark.parametrize("causes", [1, 5, 40])
def test_a_report_is_read_to_the_end(causes):
    """25 lines unless all is asked for; what is left out is counted, the gravest is shown."""
    found = [stale(f"n{at}{n}", imported_at=f"m{at:02}.py:1") for at in range(causes) for n in range(9)]
    notes = [
        stale(f"i{at}", holder=f"lib{at}")._replace(severity=Severity.INFO, rule=f"r{at}") for at in range(9)
    ]
    whole = Diagnosis((*notes, *found), patched=True, subject="app")
    short, everything = to_text(whole, everything=False), to_text(whole)
    assert len(short.splitlines()) <= 25
    assert f"{9 * causes} errors, 0 warnings, 9 notes" in short
    assert all(f"m{at:02}.py:1 imports" in everything for at in range(causes))
    assert "--all" not in everything
    shown = short.count("imports too early") * 9 + short.count("INFO  GK101")
    assert f"{9 * causes + 9 - shown} of them not shown (--all)" in short
