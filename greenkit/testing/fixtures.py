"""The pytest plugin: servers for a session, a database for a test, a mock LLM, a guard for the hub.

Loaded by pytest through the entry point `greenkit` in every project that has greenkit installed, so at load
it imports pytest and nothing else of weight. A server that is not installed skips the tests that need
it; with `CI=true` it fails them, because there it was forgotten.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from greenkit.errors import ServerNotFoundError
from greenkit.testing._hub import (
    greenkit_hub,
    pytest_addoption,
    pytest_configure,
    pytest_runtest_call,
    pytest_unconfigure,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from greenkit.testing import MockLLM, PostgresServer, RabbitServer, ValkeyServer
    from greenkit.testing._server import EmbeddedServer

__all__ = [
    "greenkit_database",
    "greenkit_hub",
    "greenkit_mock_llm",
    "greenkit_postgres",
    "greenkit_rabbitmq",
    "greenkit_valkey",
    "pytest_addoption",
    "pytest_configure",
    "pytest_runtest_call",
    "pytest_unconfigure",
]


@pytest.fixture(scope="session")
def greenkit_postgres() -> Iterator[PostgresServer]:
    """Give a running PostgreSQL for the session; `.dsn` is its address."""
    # Late, here and below: every pytest run on the machine loads this file.
    from greenkit.testing import PostgresServer

    server = PostgresServer()
    start_or_skip(server)
    with server:
        yield server


@pytest.fixture(scope="session")
def greenkit_valkey() -> Iterator[ValkeyServer]:
    """Give a running Valkey for the session; `.url` for redis-py, `.broker_url` for Celery."""
    from greenkit.testing import ValkeyServer

    server = ValkeyServer()
    start_or_skip(server)
    with server:
        yield server


@pytest.fixture(scope="session")
def greenkit_rabbitmq() -> Iterator[RabbitServer]:
    """Give a running RabbitMQ for the session; `.url` is its address."""
    from greenkit.testing import RabbitServer

    server = RabbitServer()
    start_or_skip(server)
    with server:
        yield server


@pytest.fixture(scope="session")
def greenkit_mock_llm() -> Iterator[MockLLM]:
    """Give a mock LLM server without quota or latency for the session."""
    from greenkit.testing import MockLLM

    with MockLLM() as server:
        yield server


@pytest.fixture
def greenkit_database(greenkit_postgres: PostgresServer) -> Iterator[str]:
    """Give the address of an empty database, dropped after the test."""
    from greenkit.testing._database import fresh_database

    with fresh_database(greenkit_postgres) as dsn:
        yield dsn


def start_or_skip(server: EmbeddedServer) -> None:
    """Start a server; where it is not installed, skip the test, or in CI fail it.

    Raises:
        ServerStartError: It is installed and does not start.

    Switches: may
    """
    try:
        server.start()
    except ServerNotFoundError as error:
        if os.environ.get("CI", "").lower() in {"1", "true", "yes"}:
            pytest.fail(f"CI must have every server, and {error}", pytrace=False)
        pytest.skip(str(error))
