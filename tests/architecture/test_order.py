"""The order of the test files names files that exist, and keeps it."""

from __future__ import annotations

from pathlib import Path

from tests.order import LONGEST, TOGETHER, longest_first

TESTS = Path(__file__).resolve().parents[1]


def test_every_file_named_exists():
    """A file that is renamed or merged is renamed in the order too."""
    named = {
        *(TESTS / name for name in LONGEST),
        *(TESTS.parent / name for pair in TOGETHER.items() for name in pair),
    }
    assert [path for path in named if not path.is_file()] == []


def test_long_files_come_first_and_unit_tests_last():
    """What is named comes in the order named, the rest by directory; nothing is lost."""
    files = [
        "tests/unit/wait/test_fd.py",
        "tests/process/test_clean.py",
        *(f"tests/{name}" for name in LONGEST[::-1]),
    ]
    assert longest_first(files) == [*(f"tests/{name}" for name in LONGEST), files[1], files[0]]
