"""Everybody is let through, whatever waits: patched or not, with a hub, without one, many greenlets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "programs" / "mixed_waits.py"


@pytest.mark.parametrize("world", ["plain", "patched"])
@pytest.mark.parametrize("seeds", [range(4), range(4, 8), range(8, 12)])
def test_nobody_waits_for_ever_whatever_the_mix_of_threads(world, seeds, greenkit_valkey):
    """Drawn from a seed: threads of which kinds, what each waits for, how long it stays in native code."""
    handed_over = 0
    for seed in seeds:
        url = greenkit_valkey.url if seed % 2 else "-"
        done = subprocess.run(
            [sys.executable, str(PROGRAM), str(seed), world, url],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"seed {seed}, {world}: {done.stdout}{done.stderr}"
        handed_over += int(done.stdout)
    assert handed_over > 40, "the kinds of threads hardly ever took turns"
