"""What an interrupted query leaves behind: nothing, neither here nor in the server."""

from __future__ import annotations

from pathlib import Path

import pytest

from greenkit.testing import run_clean

PROGRAMS = Path(__file__).parent / "programs"

OUTCOMES = {
    "kill": "GreenletExit",
    "timeout": "swallowed",
    "deadline": "QueryTimeout",
    "ctrl-c": "KeyboardInterrupt",
    "error": "DivisionByZero",
    "server": "OperationalError",
}


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_every_interrupt_ends_the_query_in_the_server_too(greenkit_database: str, driver: str) -> None:
    """Kill, time-out, deadline, Ctrl-C, error, dead server: the error is the caller's; no query runs on."""
    run = run_clean([str(PROGRAMS / "pg_interrupts.py"), greenkit_database, driver])
    assert run.returncode == 0, str(run)
    results = run.json["results"]
    assert {name: seen["outcome"] for name, seen in results.items()} == OUTCOMES
    for name, seen in results.items():
        assert seen["orphans"] == seen["in_use"] == 0, f"{name}: {seen}"
        assert seen["seconds"] < 5, f"{name} waited for its 30 second query: {seen}"
        # What a killed borrower held is closed: nobody knows what it left in its session.
        closed = 1 + (name == "server")
        assert seen["thrown_away"] == closed, f"{name}: {seen}"


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_a_stopped_server_ends_at_the_deadline_and_hits_nobody_later(greenkit_postgres, driver: str) -> None:
    """Cancels it carries out when it goes on hit no later query; a rollback it never answers ends too."""
    run = run_clean([str(PROGRAMS / "pg_stopped.py"), "its own server", driver])
    assert run.returncode == 0, str(run)
    assert run.json == {
        "driver": driver,
        "ended": ["QueryTimeout"] * 7,
        "given_back": True,
        "strays": [],
        "hung": 0,
        "orphans": 0,
    }


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_a_black_hole_ends_at_the_pools_query_timeout(greenkit_postgres, driver: str) -> None:
    """Queries, commits, named cursors and COPY end without anybody's `deadline()`, and the pool is whole."""
    run = run_clean([str(PROGRAMS / "pg_black_hole.py"), greenkit_postgres.dsn, driver], timeout=60)
    assert run.returncode == 0, str(run)
    seen = run.json
    assert sorted(seen["said"]) == sorted(seen["kinds"])
    assert all(
        "QueryTimeout: " in words and "query_timeout (0.5 s)" in words for words in seen["said"].values()
    ), seen
    assert (seen["hung"], seen["in_use"], seen["served"]) == (0, 0, 20)
    assert 0 < seen["peak"] <= seen["size"]


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_a_cancel_that_comes_late_hits_no_other_query(greenkit_database: str, driver: str) -> None:
    """The query's greenlet, and the pool, wait for a cancel under way: killed, or of another thread."""
    run = run_clean([str(PROGRAMS / "pg_late_cancel.py"), greenkit_database, driver], timeout=60)
    assert run.returncode == 0, str(run)
    assert run.json == {"driver": driver, "hit": [], "carried": 4}
