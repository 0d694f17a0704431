"""What a green driver can do: be refused to a second greenlet, be interrupted, move bulk, listen, connect."""

from __future__ import annotations

from pathlib import Path

import pytest

from greenkit.errors import WaitTimeout
from greenkit.testing import PostgresServer, run_clean

PROGRAMS = Path(__file__).parent / "programs"
DRIVERS = ("psycopg2", "psycopg")


def run(program: str, *arguments: str):
    run = run_clean([str(PROGRAMS / program), *arguments], timeout=90)
    assert run.returncode == 0, str(run)
    return run.json


def test_a_second_greenlet_is_refused_and_the_first_is_unharmed(greenkit_database: str) -> None:
    """Each call that touches a busy psycopg2 connection raises; the query in flight ends well."""
    seen = run("pg_guard.py", greenkit_database, "psycopg2")
    for kind in ("plain", "mine"):
        assert seen[kind]["in_flight"], "the query was over before the last call: nothing was shown"
        assert set(seen[kind]["said"].values()) == {"refused"}, seen[kind]["said"]
        assert len(seen[kind]["said"]) == 23
        assert seen[kind]["unharmed"] == [7, 1]
    assert seen["kinds"] == [True, True], "an application's own classes are gone"
    assert seen["cancelled"] == ["QueryCanceled", True]
    assert seen["waited_for"] == 1


def test_a_prepared_transaction_cannot_be_cancelled() -> None:
    """There is no query to cancel; the guard leaves psycopg2's refusal as it is."""
    with PostgresServer(own=True, settings={"max_prepared_transactions": "2"}) as server:
        assert run("pg_guard.py", server.dsn, "psycopg2", "prepared") == {"refused": True}


def test_the_same_calls_stop_a_process_without_the_guard(greenkit_database: str) -> None:
    """With psycopg2's own classes the program is still in its first call when it is ended."""
    with pytest.raises(WaitTimeout, match=r"(?s)was killed.*touching") as caught:
        run_clean([str(PROGRAMS / "pg_guard.py"), greenkit_database, "psycopg2", "twin"], timeout=5)
    assert "touched" not in str(caught.value)


@pytest.mark.parametrize("driver", DRIVERS)
def test_an_interrupted_connection_is_used_again(greenkit_database: str, driver: str) -> None:
    """In each construct the caller sees what was thrown, nothing runs on, the backend is the same."""
    seen = run("pg_same_connection.py", greenkit_database, driver)["said"]
    assert len(seen) == 21
    wrong = {name: what for name, what in seen.items() if what != [True, True, True, 0]}
    assert wrong == {}


def test_a_connection_closed_by_another_ends_its_query(greenkit_database: str) -> None:
    """Of psycopg 3 `close()` comes from any greenlet; the one in a query gets an error, not silence."""
    seen = run("pg_closed.py", greenkit_database, "psycopg")
    assert seen == {"reading": [True, True, True], "writing": [True, True, True], "notes": ["one"]}


@pytest.mark.parametrize("driver", DRIVERS)
def test_bulk_moves_while_others_run(greenkit_database: str, driver: str) -> None:
    """COPY both ways, many rows, named cursors, large objects: others get turns, endings are clean."""
    seen = run("pg_bulk.py", greenkit_database, driver)
    said = {
        "in": [200_000, 200_000],
        "out": [200_000, True],
        "file": [1, 1],
        "failing source": ["LookupError", 0],
        "bad data": ["InvalidTextRepresentation", 0],
        "killed in": ["GreenletExit", 0],
        "killed out": ["GreenletExit", 1, 0],
        "error out": ["LookupError", 1, 0],
        "left early": ["NoneType", 1, 0],
        "rows": 10_000,
    }
    if driver == "psycopg2":
        said |= {"execute copy": [True, 1, 1], "large object": "x" * 10, "own class": True, "copy_to": True}
    assert seen["said"] == said
    assert min(seen["turns"].values()) > 0, seen["turns"]


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_connect_has_an_end_and_tries_every_host(greenkit_database: str, driver: str) -> None:
    """Silence at any stage, refusal and slow names end in time; the next host is tried, others run on."""
    seen = run("pg_connect.py", greenkit_database, driver)
    outcomes = {name: (outcome, in_time) for name, (outcome, in_time, _) in seen["said"].items()}
    own = "deadline" if driver == "psycopg2" else "OperationalError"
    assert outcomes == {
        "silent": (own, True),
        "deadline": ("deadline", True),
        "second host": (1, True),
        "in TLS": ("deadline", True),
        "in login": ("deadline", True),
        "TLS, then another": (1, True),
        "refused host": (1, True),
        "standby first": (1, True),
        "slow name": (1, True),
        "endless name": ("deadline", True),
        "endless name first": (1, True),
        "no such name": ("OperationalError", True),
    }
    # What the server may still count is one of the pool's.
    connects = "the pool connects"
    assert seen["order"] == [connects, "we hung up", "the server hung up", connects]
    waited = ("silent", "deadline", "second host", "in TLS", "in login", "slow name", "endless name")
    assert all(seen["said"][name][2] for name in waited), "the hub stood still"


@pytest.mark.parametrize("driver", DRIVERS)
def test_listening_goes_on_after_a_lost_connection(greenkit_database: str, driver: str) -> None:
    """Notes arrive before and after the loss, the loss is told, a kill leaves nothing, a timeout ends it."""
    seen = run("pg_listen.py", greenkit_database, driver)
    assert seen == {
        "heard": [["jobs", "one"], ['odd "name"', ""], ["jobs", "two"]],
        "again": 1,
        "left": True,
        "timeout": [[], True],
        "ping": [[], True],
        "never": "nothing",
    }


@pytest.mark.parametrize("driver", DRIVERS)
def test_sqlalchemy_borrows_and_is_cancelled(greenkit_database: str, driver: str) -> None:
    """Its engine keeps to our bound, sets a connection up once, and loses neither slot nor query."""
    seen = run("pg_sqlalchemy.py", greenkit_database, driver)
    assert 0 < seen.pop("peak") <= 3
    assert seen == {
        "done": 60,
        "set up": 3,
        "killed": [0, 0, "GreenletExit"],
        "deadline": True,
        "after terminate": 1,
        "lost": True,
        "left": [0, 0],
        "disposed": 1,
        "own pool": 0,
    }
