"""Django over greenkit's engine: every driver, patched and not, each in a process of its own."""

from __future__ import annotations

from ctypes.util import find_library
from pathlib import Path

import pytest

from greenkit.testing import PostgresServer, _postgres, run_clean
from greenkit.testing._database import fresh_database

PROGRAMS = Path(__file__).parent / "programs"


def run(program: str, *arguments: str):
    run = run_clean([str(PROGRAMS / program), *arguments])
    assert run.returncode == 0, str(run)
    return run.json


@pytest.fixture(scope="module", params=["psycopg2 green", "psycopg green", "psycopg2 plain", "psycopg plain"])
def seen(greenkit_postgres, request):
    """What one Django process saw, and how it was started."""
    driver, world = request.param.split()
    return {**run("dj_engine.py", greenkit_postgres.dsn, driver, world), "driver": driver, "world": world}


def test_units_of_work_share_the_pools_connections(seen) -> None:
    """Sixty greenlets (eight threads) are all served, by never more than `max_size` connections."""
    assert seen["errors"] == []
    assert seen["done"] == (60 if seen["world"] == "green" else 8)
    assert 0 < seen["peak"] <= seen["size"]
    assert seen["created"] <= seen["size"]


def test_what_nobody_closes_comes_back(seen) -> None:
    """Greenlets and threads that end without closing give their connections back."""
    assert seen["taken_back"] > 0
    assert seen["in_use"] == 0


def test_the_end_of_a_request_gives_the_connection_back(seen) -> None:
    """After `request_finished` nothing is lent."""
    assert (seen["borrowed"], seen["after_request"]) == (1, 0)


def test_connections_are_set_up_as_django_wants_them(seen) -> None:
    """The session's time zone is Django's, also on the connection a failed transaction used before."""
    assert seen["time_zone"] == "UTC"


def test_an_exhausted_pool_is_an_operational_error_to_django(seen) -> None:
    """Django wraps `PoolTimeout` as it wraps the driver's errors."""
    assert seen["exhausted"] == "PoolTimeout"


def test_a_wrapper_shared_with_others_keeps_its_connection(seen) -> None:
    """The end of the greenlet or thread that opened it takes nothing from those it was given to."""
    assert seen["shared"] == [1, True, 0]


def test_a_killed_unit_of_work_leaves_no_query(seen) -> None:
    """The engine alone, with nothing else installed, has the query cancelled; with either driver."""
    assert seen["cancelled"] == 0


def test_a_green_process_gets_the_wait_callback_by_itself(seen) -> None:
    """The engine installs psycopg2's callback when the process is patched, and only then."""
    if seen["driver"] == "psycopg2":
        assert seen["installed"] == (seen["world"] == "green")


@pytest.mark.skipif(find_library("gdal") is None, reason="GeoDjango needs libgdal (Debian: gdal-bin)")
@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_geodjangos_engine_has_the_pool_too(greenkit_database: str, driver: str) -> None:
    """`greenkit.django.postgis` is GeoDjango's engine, and keeps the bound."""
    seen = run("dj_engine.py", greenkit_database, driver, "green", "postgis")
    assert seen["kinds"] == ["PostGISOperations", "PostGISSchemaEditor"]
    assert (seen["errors"], seen["done"], seen["in_use"], seen["cancelled"]) == ([], 60, 0, 0)
    assert 0 < seen["peak"] <= seen["size"]


@pytest.fixture(scope="module")
def postgis():
    """A server that has PostGIS: the system's, as the wheel has none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/lib/postgis-3.so"))
    if not found:
        pytest.skip("no PostGIS (Debian: postgresql-postgis)")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_postgres, "postgres_bin", lambda: found[-1].parents[1] / "bin")
        with PostgresServer(own=True) as server:
            yield server


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_greenlets_ask_for_what_is_near(postgis, driver: str) -> None:
    """Geometries go through pooled connections, both ways; a killed query of one is cancelled and undone."""
    with fresh_database(postgis) as dsn:
        seen = run("dj_geometry.py", dsn, driver, "green", "postgis")
    assert seen["found"] == [["Dresden", 0]]
    assert (seen["times"], seen["wrong"]) == (40, [])
    assert (seen["slept"], seen["left"], seen["killed_rows"]) == (1, 0, 0)
    assert 0 < seen["created"] <= seen["size"]


@pytest.mark.parametrize("world", ["green", "plain"])
@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_djangos_test_runner_can_drop_its_database(greenkit_database: str, driver: str, world: str) -> None:
    """Tests run in the test database although a pool was open before, and it is dropped after them."""
    seen = run("dj_test_run.py", greenkit_database, driver, world)
    assert seen["successful"]
    assert seen["ran"] == ["test_" + seen["before"]] * 2
    assert seen["left"] == 0


def test_checks_name_what_is_wrong_and_how_to_mend_it(greenkit_postgres) -> None:
    """Each misconfiguration has its id and a hint; a good configuration has none."""
    seen = run("dj_checks.py", greenkit_postgres.dsn, "psycopg2", "green")
    assert seen == {
        "good": [],
        "settings": [["GK601", 40, True]],
        "kind": [["GK601", 40, True]],
        "options": [["GK602", 40, True]],
        "age": [["GK603", 40, True]],
        "lenient": [["GK603", 30, True]],
        "as_set_up": [],
        "bouncer": [["GK606", 40, True]],
        "room": [["GK605", 30, True]],
        "own_pool": [["GK607", 40, True]],
        "on_stock": [["GK608", 30, True]],
        "on_ours": [],
        "strings": [[["GK602", 40, True]]] * 5,
    }
    stock = run("dj_checks.py", greenkit_postgres.dsn, "psycopg2", "green", "stock")
    assert stock["as_set_up"] == [["GK301", 40, True], ["GK604", 30, True]]


@pytest.mark.parametrize("world", ["green", "plain"])
@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_settings_mean_what_they_mean_to_django(greenkit_database: str, driver: str, world: str) -> None:
    """Isolation, role, ages, health, cursors and shell are those of Django's engine, alias by alias."""
    seen = run("dj_settings.py", greenkit_database, driver, world)
    assert seen == {
        "isolation": "serializable",
        "isolation_of_others": "read committed",
        "role": ["pg_monitor", "pg_monitor"],
        "role_of_others": True,
        "atomic_requests": [500, "True", ["kept"]],
        "kept": True,
        "closing": False,
        "healthy": True,
        "kept_healthy": True,
        "cursors": [True, 300, True, 300, False, 300],
        "binding": True if driver == "psycopg" else None,
        "shell": ["7"],
        "inspect": True,
    }


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_djangos_test_runner_works_in_processes(greenkit_database: str, driver: str) -> None:
    """`--parallel` clones the test database for its processes; serialized rollback fills it again."""
    assert run("dj_parallel.py", greenkit_database, driver, "plain") == {"failed": 0, "ran": 4, "left": 0}


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_threads_that_open_at_once_keep_the_settings(greenkit_postgres, driver) -> None:
    """Both threads read the parameters at the same moment, and `OPTIONS["pool"]` is still there."""
    seen = run("dj_threads.py", greenkit_postgres.dsn, driver, "plain")
    assert seen == {"met": 2, "left": ["application_name", "pool"]}


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_a_fork_leaves_a_file_alone_that_took_a_connections_number(greenkit_postgres, driver) -> None:
    """In the child a closed connection's number is still the file; an open one's leads nowhere."""
    seen = run("pg_fork.py", greenkit_postgres.dsn, driver)
    assert seen["reused"], "the number was not taken: nothing was tested"
    assert seen["child"] == ["/etc/hostname", "/dev/null"]
