"""What a Celery task's coroutines leave behind, each promise in a clean interpreter."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from greenkit.testing import run_clean

PROGRAM = Path(__file__).parent / "programs" / "aio_children.py"
CHECKS = [
    node.name
    for node in ast.parse(PROGRAM.read_text()).body
    if isinstance(node, ast.FunctionDef) and any(getattr(d, "id", "") == "check" for d in node.decorator_list)
]


@pytest.mark.parametrize("name", CHECKS)
def test_a_task_answers_for_its_coroutines(name):
    """What the check's name says is so in a patched process."""
    done = run_clean([str(PROGRAM), name], timeout=60)
    assert done.returncode == 0, str(done)
    assert done.stdout.endswith("ok\n"), str(done)
    if name.startswith("report"):
        assert "left an asyncio task of __main__.Fate.left_behind running" in done.stdout


def test_the_loop_is_among_the_facts():
    """`celery inspect greenkit` and the metrics see the long-lived loop."""
    done = run_clean(
        "import greenkit.auto, asyncio\n"
        "from greenkit import aio, facts\n"
        "aio.run(asyncio.sleep(0))\n"
        "print(facts.snapshot()['aio'])\n"
    )
    assert done.stdout.startswith("{'loop': {'running': 0, 'finished': 1,"), str(done)
