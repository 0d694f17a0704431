"""The promise the room is built on: whatever is killed when, nothing is lost and nothing exceeds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from greenkit.testing import run_clean
from tests.integration.bouncer import pgbouncer
from tests.integration.tls_postgres import tls_postgres

PROGRAMS = Path(__file__).parent / "programs"
DRIVERS = ("psycopg2", "psycopg")


def run(program: str, *arguments: str):
    run = run_clean([str(PROGRAMS / program), *arguments], timeout=90)
    assert run.returncode == 0, str(run)
    return run.json


@pytest.fixture(scope="module")
def encrypted() -> Iterator[str]:
    with tls_postgres() as dsn:
        yield dsn


@pytest.mark.parametrize(
    "way", ["", "wrapped", "reset", "pgbouncer", "pgbouncer wrapped reset", "tls", "tls wrapped reset"]
)
@pytest.mark.parametrize("driver", DRIVERS)
def test_kills_and_timeouts_cost_no_connection_and_exceed_no_bound(
    request: pytest.FixtureRequest, greenkit_database: str, driver: str, way: str
) -> None:
    """After a storm of kills every connection is usable, and the server never saw one too many."""
    on, *more = way.split() or [""]
    more = more if on in {"pgbouncer", "tls"} else [on]
    dsn = request.getfixturevalue("encrypted") if on == "tls" else greenkit_database
    with pgbouncer(dsn, 8) if on == "pgbouncer" else nullcontext() as through:
        if through:
            more.append(f"through={through}")
        seen = run("pg_storm.py", dsn, driver, "7", "40", "200", *more)
    assert seen["encrypted"] is (on == "tls")
    assert min(seen["killed"]["in_flight"], seen["killed"]["waiting"]) > 10, "too few kills hit: no storm"
    assert seen["done"]["timed out"] > 100
    assert seen["usable"] == seen["size"], seen
    assert 0 < seen["peak"] <= seen["size"], seen
    assert seen["hung"] == seen["orphans"] == 0, seen
    assert seen["errors"] == {}, "an innocent query was hit"


def test_the_storm_sees_a_pool_that_forgets_base_exceptions(greenkit_database: str) -> None:
    """The same storm leaves a pool that undoes on `Exception` only with dead slots, in one of five."""
    storms = (
        run("pg_storm.py", greenkit_database, "psycopg2", str(seed), "10", "40", "twin") for seed in range(5)
    )
    assert any(seen["usable"] < seen["size"] for seen in storms), "on a busy machine few kills strike"


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_borrower_killed_at_any_switch_costs_no_connection(greenkit_database: str, driver: str) -> None:
    """Connecting, waiting, asking, giving back: struck at each switch, no connection is gone."""
    seen = run("pg_kill_points.py", greenkit_database, driver)
    assert seen["problem"] == ""
    assert seen["victims"]["borrower"] > 30, seen
    assert seen["peak"] <= seen["size"]


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_kill_while_somebody_cancels_costs_no_connection(greenkit_database: str, driver: str) -> None:
    """Borrower or canceller struck at any switch, the pool's only connection works for the next borrower."""
    seen = run("pg_kill_points.py", greenkit_database, driver, "cancel")
    assert seen["problem"] == ""
    assert min(seen["victims"]["borrower"], seen["victims"]["canceller"]) > 0, seen
    assert seen["canceled"] > 0, "nobody was cancelled"
    assert seen["peak"] <= seen["size"]


def test_the_kill_points_see_a_pool_that_forgets_base_exceptions(greenkit_database: str) -> None:
    """The twin is found out at some of them."""
    seen = run("pg_kill_points.py", greenkit_database, "psycopg2", "twin")
    assert "borrower killed at" in seen["problem"], seen


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_cold_burst_opens_no_connection_too_many(greenkit_database: str, driver: str) -> None:
    """200 greenlets on a cold pool of 10 are served by 10 connections."""
    seen = run("pg_burst.py", greenkit_database, driver)
    assert seen["done"] == 200
    assert 0 < seen["peak"] <= seen["size"]
    assert seen["created"] == seen["size"]


def test_the_burst_sees_a_pool_that_counts_too_late(greenkit_database: str) -> None:
    """A pool that counts connections when they are open goes over its size in the same burst."""
    seen = run("pg_burst.py", greenkit_database, "psycopg2", "twin")
    assert seen["peak"] > seen["size"]
