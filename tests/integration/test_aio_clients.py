"""Real async clients called from greenlets of a patched process."""

from __future__ import annotations

from pathlib import Path

import pytest

from greenkit.testing import MockLLM, run_clean

PROGRAM = Path(__file__).parent / "programs" / "aio_clients.py"


@pytest.fixture(scope="module")
def seen():
    """What each client did, in one process."""
    with MockLLM(latency="0.05") as server:
        run = run_clean([str(PROGRAM), server.url], timeout=90)
    assert run.returncode == 0, str(run)
    assert run.stderr == "", run.stderr
    return run.json


@pytest.mark.parametrize(
    "client",
    [
        "httpx, shared",
        "httpx, asyncio.run",
        "openai",
        "openai, streamed",
        "openai, gathered",
        "openai, after kills",
        "anyio",
        "anyio.run",
    ],
)
def test_an_async_client_works_from_many_greenlets_at_once(seen, client):
    """All answer, clients keep working across calls and kills, and nothing is complained about at the end."""
    assert seen[client] is True
