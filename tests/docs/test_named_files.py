"""Pages that name files of the repository, or tests in them, name what exists."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import ROOT, pages

NAMED = re.compile(r"`((?:greenkit|tests|examples|benchmarks|docs)/[\w./-]+)`")
TESTS = re.compile(r"`(tests/[\w./-]+\.py)::(\w+)`")


def gone(text: str) -> list[str]:
    """Return the tests that a text names and their files do not define."""
    named = [(ROOT / file, name) for file, name in TESTS.findall(text)]
    return [
        name
        for file, name in named
        if not file.exists() or f"\ndef {name}(" not in file.read_text(encoding="utf-8")
    ]


@pytest.mark.parametrize("page", [page for page in pages() if "decisions" not in page])
def test_a_file_that_a_page_names_exists(page):
    """A test, an example or a module in code style is there, at that path."""
    text = (ROOT / page).read_text(encoding="utf-8")
    assert [name for name in NAMED.findall(text) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", [page for page in pages() if "decisions" not in page])
def test_a_test_that_a_page_names_exists(page):
    """The file is there, and defines a function of that name."""
    assert gone((ROOT / page).read_text(encoding="utf-8")) == []


def test_each_promise_names_the_test_that_breaks():
    """Every row of the table of promises has a test, by file and name."""
    page = (ROOT / "docs" / "explanation" / "reliability.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 15
    assert [row for row in rows if not TESTS.search(row)] == []


def test_a_test_that_is_gone_is_seen():
    """A file that is gone, and one that defines no test of that name."""
    assert gone("`tests/gone.py::test_a`, `tests/docs/test_named_files.py::test_b`") == ["test_a", "test_b"]


def test_a_file_that_is_gone_is_seen():
    """The expression finds paths, and only those of the repository."""
    assert NAMED.findall("`tests/gone.py`, `shop/tasks.py`, `greenkit/pool/`") == [
        "tests/gone.py",
        "greenkit/pool/",
    ]


@pytest.mark.parametrize(
    ("row", "extra", "package"),
    [
        ("Celery", "celery", "celery"),
        ("Django", "django", "django"),
        ("psycopg2", "postgres", "psycopg2-binary"),
        ("psycopg", "psycopg3", "psycopg"),
        ("redis-py", "redis", "redis"),
    ],
)
def test_the_compatibility_table_is_the_packages_own(row, extra, package):
    """The lowest version in the table is the lower bound of the extra."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")  # Python 3.10 has no tomllib
    extras = re.search(rf"^{extra} = \[(.*)\]$", project, re.MULTILINE)[1]
    needed = re.search(rf'"({package}[\[>].*?)"', extras)[1]
    bound = re.search(r">=([\d.]+)", needed)[1]
    table = (ROOT / "docs" / "reference" / "compatibility.md").read_text(encoding="utf-8")
    line = next(line for line in table.splitlines() if line.startswith(f"| {row} |"))
    assert f"| {bound} " in line
    pythons = re.findall(r'Python :: (3\.\d+)"', project)
    assert f"| CPython | {pythons[0]} to {pythons[-1]} |" in table
