"""What one borrower's session leaves to the next, and who keeps others waiting, over Django's engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from greenkit.testing import PostgresServer, run_clean
from greenkit.testing._database import fresh_database

PROGRAM = Path(__file__).parent / "programs" / "dj_sessions.py"


@pytest.fixture(scope="module", params=["psycopg2", "psycopg"])
def seen(greenkit_postgres: PostgresServer, request):
    """What one Django process saw."""
    with fresh_database(greenkit_postgres) as dsn:
        run = run_clean([str(PROGRAM), dsn, request.param, "green"])
    assert run.returncode == 0, str(run)
    return run.json


def test_nobody_gets_the_session_of_a_killed_borrower(seen) -> None:
    """Its advisory lock is free, whether it gave its connection back while dying or not at all."""
    assert seen["killed"] == [[1, 0, 1], [1, 0, 1]], "locks before, after, connections opened"


def test_a_return_in_order_costs_no_connection(seen) -> None:
    """Borrowers that end in order share one connection."""
    assert seen["orderly"] == 0


def test_reset_keeps_the_connection_of_a_killed_borrower(seen) -> None:
    """With `reset` in the settings the lock is free and nothing is opened."""
    assert seen["kept"] == [1, 0, 0]


def test_configure_check_and_reset_come_from_the_settings(seen) -> None:
    """Each is called when it should be, and what `configure` set is the session's."""
    assert seen["calls"] == ["configure", "reset", "check", "reset", "check", "reset"]
    assert seen["settings"] == "4321ms"


def test_an_abandoned_iterators_cursor_is_closed(seen) -> None:
    """The next borrower finds no cursor, and may open one of its own."""
    assert seen["cursors"] == [1, 0]


def test_a_query_ends_without_a_deadline(seen) -> None:
    """`query_timeout` ends it and says so; a deadline() replaces it."""
    assert "query_timeout (0.3 s)" in seen["slow"]
    assert seen["longer"] == 1


def test_an_exhausted_pool_names_its_borrowers(seen) -> None:
    """The error and the statistics name the line that holds the connection and waits for something else."""
    assert "dj_sessions.py" in seen["timed_out"]
    assert "call_an_api for 0." in seen["timed_out"]
    assert "with no query running" in seen["timed_out"]
    where, seconds, querying = seen["borrower"]
    assert where.endswith("call_an_api")
    assert seconds > 0
    assert not querying


def test_a_connection_held_without_a_query_is_a_finding(seen) -> None:
    """GK306 names the line, once others have waited long enough."""
    assert seen["seconds"] > 0
    assert len(seen["findings"]) == 1
    assert seen["findings"][0].startswith("GK306 ")
    assert "dj_sessions.py" in seen["findings"][0]


def test_connections_are_given_back_between_queries(seen) -> None:
    """With `release_between_queries`: kept in a transaction and for an open iterator, else given back."""
    after_query, inside, in_hook, after, iterating, rest, exhausted, listed, at_last = seen["steps"]
    assert (after_query, inside, in_hook, after) == (0, 1, 0, 0)
    assert (iterating, rest, exhausted) == (1, 19, 0)
    assert (listed, at_last) == (20, 0)


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_forty_tasks_call_an_api_at_once_over_four_connections(greenkit_database, driver) -> None:
    """With `release_between_queries` nobody waits for a connection in another's call; without it 36 do."""
    most = {}
    for way in ((), ("release",)):
        run = run_clean(
            [str(PROGRAM.with_name("dj_api.py")), greenkit_database, driver, "green", *way], timeout=90
        )
        assert run.returncode == 0, str(run)
        seen = run.json
        assert (seen["done"], seen["in_use"]) == (True, 0)
        assert 0 < seen["peak"] <= seen["size"] == 4
        most[way] = seen["most"]
    assert most == {(): 4, ("release",): 40}
