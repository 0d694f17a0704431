"""Engines of other packages, built on greenkit's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from greenkit.testing import PostgresServer, run_clean

PROGRAMS = Path(__file__).parent / "programs"
DRIVERS = ("psycopg2", "psycopg")


@pytest.fixture(scope="module")
def tenants(tmp_path_factory) -> Path:
    """A directory that holds django-tenants, and nothing that other tests could see."""
    target = tmp_path_factory.mktemp("tenants")
    command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps", "--target", str(target)]
    done = subprocess.run(
        [*command, "django-tenants==4.0.1"], check=False, capture_output=True, text=True, timeout=120
    )
    if done.returncode:
        why = f"django-tenants cannot be installed: {done.stderr[-300:]}"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why)
    return target


@pytest.mark.parametrize("options", [(), ("limit", "release")])
@pytest.mark.parametrize("driver", DRIVERS)
def test_tenants_share_a_pool_and_see_their_own_rows(
    tenants, greenkit_database: str, driver: str, options
) -> None:
    """Every query runs in its tenant's schema, after kills too, and without a tenant in `public`."""
    arguments = [str(PROGRAMS / "dj_tenants.py"), greenkit_database, driver, "green", *options]
    run = run_clean(arguments, env={"PYTHONPATH": str(tenants)}, timeout=90)
    assert run.returncode == 0, str(run)
    seen = run.json
    assert seen["killed"] > 5, "too few kills hit"
    assert (seen["wrong"], seen["unfinished"], seen["in_use"]) == ([], 0, 0)
    assert all(done <= rows <= 60 for done, rows in zip(seen["done"], seen["rows"], strict=True)), seen
    assert sum(seen["done"]) > 60
    assert 0 < seen["peak"] <= seen["size"]


@pytest.fixture(scope="module")
def guarded():
    """A server that wants passwords."""
    with PostgresServer(own=True, tcp=True) as server:
        yield server


@pytest.mark.parametrize("driver", DRIVERS)
def test_each_connection_signs_in_with_a_fresh_token(guarded, driver: str) -> None:
    """All are served after the tokens were exchanged; a refused token is told to everybody at once."""
    run = run_clean([str(PROGRAMS / "dj_tokens.py"), guarded.dsn, driver, "green"], timeout=90)
    assert run.returncode == 0, str(run)
    seen = run.json
    assert seen["before"] == [12, []]
    assert seen["after"] == [12, []]
    assert seen["opened"] <= 2 * seen["size"]
    assert seen["signed"] >= seen["opened"], "a token for each connection"
    served, said = seen["refused"]
    assert served == 0
    assert all('password authentication failed for user "signs_in"' in words for words in said), said
    assert seen["attempts"] <= 3, "nobody tried again"
