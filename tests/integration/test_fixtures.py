"""The fixtures greenkit brings to any project's tests."""

from __future__ import annotations

import contextlib
import json
import urllib.request

import psycopg2
import pytest
import redis

from greenkit.testing._database import fresh_database


def databases(dsn):
    with contextlib.closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT datname FROM pg_database")
        return {name for (name,) in cursor.fetchall()}


def test_a_test_has_a_database_of_its_own(greenkit_database, greenkit_postgres):
    """It is empty, and not the one other tests get."""
    with contextlib.closing(psycopg2.connect(greenkit_database)) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT current_database(), count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        )
        name, tables = cursor.fetchone()
    assert tables == 0
    with fresh_database(greenkit_postgres) as other:
        assert other != greenkit_database
        assert {name, other.rpartition("?")[0].rpartition("/")[2]} <= databases(greenkit_postgres.dsn)


def test_a_forgotten_connection_does_not_keep_the_database(greenkit_postgres):
    """The database is dropped with whoever is still connected, and after a failed test too."""
    before, kept = databases(greenkit_postgres.dsn), []
    with pytest.raises(KeyError), fresh_database(greenkit_postgres) as dsn:
        raise KeyError(kept.append(psycopg2.connect(dsn)))
    assert databases(greenkit_postgres.dsn) == before
    with contextlib.closing(kept[0]) as forgotten, pytest.raises(psycopg2.OperationalError):
        forgotten.cursor().execute("SELECT 1")


def test_the_session_servers_answer(greenkit_valkey, greenkit_mock_llm):
    """Valkey and the mock LLM of the session are there for everybody."""
    with redis.Redis.from_url(greenkit_valkey.url) as client:
        assert client.ping()
    body = json.dumps({"model": "mock", "messages": [{"role": "user", "content": "hi"}]}).encode()
    request = urllib.request.Request(
        f"{greenkit_mock_llm.url}/v1/chat/completions", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as reply:
        assert reply.status == 200
