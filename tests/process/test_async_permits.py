"""Limits from coroutines, in patched processes and in plain asyncio programs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "programs" / "async_permits.py"
CHECKS = [
    node.name
    for node in ast.parse(PROGRAM.read_text()).body
    if isinstance(node, ast.FunctionDef) and any(getattr(d, "id", "") == "check" for d in node.decorator_list)
]


@pytest.mark.parametrize("how", ["patched", "plain"])
@pytest.mark.parametrize("name", CHECKS)
def test_async_and_sync_callers_share_a_limit(how, name):
    """What the check's name says holds with and without the patch."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(PROGRAM), how, name],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", ""), done.stderr[-4000:]
