"""The probe's queries to a real Postgres."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from greenkit.testing import run_clean

if TYPE_CHECKING:
    from greenkit.testing import PostgresServer


def test_the_drivers_are_measured_with_a_server(greenkit_postgres: PostgresServer) -> None:
    """Both drivers cooperate in a process greenkit patched, and each waited as long as the query took."""
    run = run_clean(["-m", "greenkit", "doctor", "--probe", "--json", "--dsn", greenkit_postgres.dsn])
    told = {one["api"]: one for one in json.loads(run.stdout)["probes"]}
    for driver in ("psycopg2 query", "psycopg query"):
        assert told[driver]["verdict"] == "cooperates", run
        assert told[driver]["waited_ms"] >= 60


def test_a_server_that_is_not_there_is_told(greenkit_postgres: PostgresServer) -> None:
    """The drivers fail, with the server's word, and the rest is measured."""
    run = run_clean(
        ["-m", "greenkit", "doctor", "--probe", "--json", "--dsn", "host=127.0.0.1 port=1 connect_timeout=2"]
    )
    told = {one["api"]: one for one in json.loads(run.stdout)["probes"]}
    assert told["psycopg2 query"]["verdict"] == "fails", run
    assert "refused" in told["psycopg2 query"]["note"]
    assert told["time.sleep"]["verdict"] == "cooperates"
