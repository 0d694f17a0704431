"""A shared limit on a PostgreSQL server whose clock steps, as after a failover or a restored machine."""

from __future__ import annotations

import gevent
import psycopg2
import pytest

from greenkit.limits import Limiter, _postgres

# Found before the built-in one, as that schema is searched first.
CLOCK = """
CREATE SCHEMA stepping;
CREATE TABLE stepping.step (seconds float8);
INSERT INTO stepping.step VALUES (0);
CREATE FUNCTION stepping.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
    'SELECT pg_catalog.clock_timestamp() + make_interval(secs => (SELECT seconds FROM stepping.step))';
"""


@pytest.mark.parametrize("seconds", [-86_400, -30, 4_000, 86_400])
def test_a_clock_of_the_database_that_steps_lets_no_more_through(greenkit_database, seconds, monkeypatch):
    """Neither a second burst after a step forward, nor a standstill after one back."""
    monkeypatch.setattr(_postgres, "_SWEEP_EVERY", 5)  # rows that seem to have expired must not matter either
    address = greenkit_database
    with psycopg2.connect(address) as conn, conn.cursor() as cursor:
        cursor.execute(CLOCK)
        cursor.execute(f"ALTER DATABASE {conn.info.dbname} SET search_path = stepping, pg_catalog, public")
    slow = Limiter("slow", requests="1/hour burst 5", share=address)
    fast = Limiter("fast", requests="200/s burst 1", share=address)
    assert [bool(slow.try_permit()) for _ in range(6)] == [True] * 5 + [False]
    pass_many(fast, 40)
    with psycopg2.connect(address) as conn, conn.cursor() as cursor:
        cursor.execute("UPDATE stepping.step SET seconds = %s", [seconds])
        cursor.execute("SELECT extract(epoch FROM clock_timestamp() - pg_catalog.clock_timestamp())::float8")
        assert cursor.fetchone()[0] == pytest.approx(seconds, abs=1), "the clock has not stepped"
    pass_many(fast, 40)
    for _ in range(20):
        assert not slow.try_permit()
    seen = fast.statistics()
    assert seen.granted == 80
    assert 0 < seen.pace <= 1
    assert slow.statistics().backend == "shared"


def pass_many(limit, many):
    def one():
        with limit.permit(timeout=30):
            pass

    gevent.joinall([gevent.spawn(one) for _ in range(many)], timeout=60, raise_error=True)
