"""Real async clients called from greenlets of a patched process."""

from __future__ import annotations

from pathlib import Path

import pytest

from greenkit.testing import MockLLM, PostgresServer, ValkeyServer, run_clean

PROGRAMS = Path(__file__).parent / "programs"


@pytest.fixture(scope="module")
def seen():
    """What each client did, in one process."""
    with MockLLM(latency="0.05") as server:
        run = run_clean([str(PROGRAMS / "aio_clients.py"), server.url], timeout=90)
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


@pytest.fixture(scope="module")
def seen_with_servers():
    """What aiohttp, asyncpg and Channels' layers did, in one process."""
    with MockLLM(latency="0.05") as llm, ValkeyServer() as redis, PostgresServer(own=True) as postgres:
        addresses = (llm.url, redis.url, postgres.dsn)
        run = run_clean([str(PROGRAMS / "aio_servers.py"), *addresses], timeout=100)
    assert run.returncode == 0, str(run)
    assert run.stderr == "", run.stderr
    return run.json


@pytest.mark.parametrize(
    "promise",
    [
        "aiohttp, shared",
        "aiohttp, asyncio.run",
        "aiohttp, async_to_sync",
        "aiohttp, streamed",
        "aiohttp, after kills",
        "aiohttp, descriptors",
        "asyncpg, pool",
        "asyncpg, asyncio.run",
        "asyncpg, cursor",
        "asyncpg, after kills",
        "asyncpg, nothing left",
        "in memory, group_send",
        "in memory, after kills",
        "redis, group_send",
        "redis, after kills",
        "redis pubsub, group_send",
        "redis pubsub, after kills",
        "redis, connections",
        "nothing left",
        "threads",
    ],
)
def test_async_clients_of_real_servers_hold_in_greenlets(seen_with_servers, promise):
    """Calls, queries and messages from many greenlets and tasks at once all arrive, also after kills."""
    assert seen_with_servers[promise] is True
