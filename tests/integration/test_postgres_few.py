"""A server that lets in fewer connections than `max_size`, and connects that hang: nobody waits in vain."""

from __future__ import annotations

import threading
from pathlib import Path

import psycopg
import psycopg2
import pytest

from greenkit.postgres import ConnectionPool
from greenkit.testing import run_clean

PROGRAMS = Path(__file__).parent / "programs"


@pytest.fixture(scope="module", params=["psycopg2", "psycopg"])
def limited(request, greenkit_postgres):
    """What forty callers of eight connections got from a role that may have two."""
    run = run_clean(
        [str(PROGRAMS / "pg_few.py"), greenkit_postgres.dsn, request.param, "limited"], timeout=90
    )
    with psycopg.connect(greenkit_postgres.dsn, autocommit=True) as boss:
        boss.execute("drop role if exists greenkit_few")
    assert run.returncode == 0, str(run)
    return run.json


def test_callers_share_what_the_server_lets_in(limited) -> None:
    """Two connections serve all forty, wave after wave: whoever waits takes what comes back."""
    assert limited["waves"] == [[40, ["NoneType"]]] * 3
    assert limited["peak"] <= 8


def test_a_full_server_is_named_and_is_no_outage(limited) -> None:
    """`statistics()`, the repr and the error say how many it lets in; it is not counted as away."""
    assert (limited["full_at"], limited["away"]) == (2, 0.0)
    assert "the server lets in no more than 2" in limited["repr"]
    assert "lets in no more than 2 of its 8" in limited["told"]
    assert "too many connections for role" in limited["told"]
    assert "Lower max_size" in limited["told"]


def test_the_pool_grows_when_the_server_allows_more(limited) -> None:
    """Attempts go on, at most a second apart, and the refusal is forgotten with the first that succeeds."""
    assert limited["recovered"] is None


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_a_cold_pools_first_callers_wait_for_those_who_are_let_in(greenkit_postgres, driver) -> None:
    """Six connects are refused before the first two succeed; nobody is told, and the two serve everybody."""
    run = run_clean([str(PROGRAMS / "pg_few.py"), greenkit_postgres.dsn, driver, "cold"], timeout=90)
    assert run.returncode == 0, str(run)
    assert run.json["waves"] == [[40, ["NoneType"]]] * 3
    assert (run.json["full_at"], run.json["away"]) == (2, 0.0)


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_connects_that_hang_cost_only_themselves(greenkit_postgres, driver) -> None:
    """Six connects hang for ever; the two connections that were made serve everybody."""
    run = run_clean([str(PROGRAMS / "pg_few.py"), greenkit_postgres.dsn, driver, "stuck"], timeout=90)
    assert run.returncode == 0, str(run)
    assert run.json["waves"] == [[40, ["NoneType"]]] * 3
    assert run.json["peak"] <= 8


@pytest.mark.parametrize("driver", [psycopg2, psycopg])
def test_native_threads_share_what_the_server_lets_in(greenkit_database: str, driver) -> None:
    """In an unpatched process, too, a thread that was refused takes what another gives back."""
    with psycopg.connect(greenkit_database, autocommit=True) as boss:
        boss.execute("create role greenkit_threads login connection limit 2")
    pool = ConnectionPool(
        lambda: driver.connect(greenkit_database, user="greenkit_threads"), max_size=6, timeout=30.0
    )
    done, met = [], threading.Barrier(6)

    def work() -> None:
        met.wait()
        for _ in range(5):
            with pool.connection() as conn:
                conn.cursor().execute("select pg_sleep(0.01)")
        done.append(True)

    try:
        with pool.connection():
            pass
        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(done) == 6
        assert pool.statistics().connect_errors > 0, "the server refused nobody: nothing was tested"
        assert pool.statistics().peak <= 6
    finally:
        pool.close()
        with psycopg.connect(greenkit_database, autocommit=True) as boss:
            boss.execute("drop role greenkit_threads")
