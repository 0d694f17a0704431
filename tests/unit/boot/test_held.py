"""How harmful a reference from before the patch is, by what its holder does with it."""

from __future__ import annotations

import pytest

from greenkit.boot import _held
from greenkit.boot._scan import StaleReference

SOURCE = """
from queue import SimpleQueue
class Log:
    def __init__(self):
        self.queue = SimpleQueue()
    def flush(self):
        return self.queue.{call}
"""


@pytest.mark.parametrize(
    ("call", "library", "severity"),
    [
        ("get_nowait()", True, "info"),
        ("get()", True, "error"),
        ("get_nowait() or self.queue.get(timeout=1)", True, "error"),
        ("get_nowait()", False, "error"),  # in the project's own file the name is easy to mend
    ],
)
def test_a_queue_of_a_package_that_is_only_asked_blocks_nobody(
    tmp_path, monkeypatch, call, library, severity
):
    """A package that never waits for its queue does not stop the hub with it."""
    file = tmp_path / "log.py"
    file.write_text(SOURCE.format(call=call))
    monkeypatch.setattr(_held, "file_of", lambda _: str(file))
    monkeypatch.setattr(_held, "is_library", lambda _: library)
    one = StaleReference("package.log", "SimpleQueue", ("queue", "SimpleQueue"), "module global")
    assert _held._graded(one)[0].value == severity
