"""A pool's days: waiting, leaks, a dead server, a fork, native threads, the end."""

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
def life(greenkit_postgres, request):
    """What one patched process with a pool of one connection lived through."""
    run = run_clean([str(PROGRAMS / "pg_life.py"), greenkit_postgres.dsn, request.param])
    assert run.returncode == 0, str(run)
    return run.json


def test_an_exhausted_pool_answers_with_the_drivers_error(life) -> None:
    """The error is `PoolTimeout` and the driver's `OperationalError`, and says how full the pool is."""
    ours, message, _ = life["exhausted"]
    assert ours
    assert "1 of 1 in use" in message


def test_a_leaked_connection_is_taken_back_and_reported(life) -> None:
    """A greenlet that ends with a connection loses it; the fact names the line that borrowed it."""
    taken_back, named, in_use = life["leak"]
    assert (taken_back, named, in_use) == (1, True, 0)
    assert life["leak heals"] == 1


def test_a_dead_idle_connection_is_replaced_before_it_is_lent(life) -> None:
    """The borrower after a server restart gets a working connection, not an error."""
    assert life["stale"] == [1, 1]


def test_waiters_are_served_in_order(life) -> None:
    """Twenty waiters for one connection get it in the order they came."""
    assert life["waiting"] == 20
    assert life["in order"]


def test_a_forked_child_has_connections_of_its_own(life) -> None:
    """The child connects anew, and the parent's connection works on after the child is gone."""
    assert life["fork"] == [True, True]


def test_a_closed_pool_turns_waiters_away_and_leaves_no_connection(life) -> None:
    """Waiters get `PoolClosedError`; what was lent is closed when it comes back."""
    assert life["close"] == ["PoolClosedError", 0, 0]


@pytest.mark.parametrize("driver", [psycopg2, psycopg])
def test_native_threads_share_a_pool(greenkit_database: str, driver) -> None:
    """Eight native threads use three connections, and one that forgets to give back costs nothing."""
    pool = ConnectionPool(lambda: driver.connect(greenkit_database), max_size=3, timeout=30.0)
    done, met = [], threading.Barrier(8)

    def work() -> None:
        met.wait()
        for _ in range(5):
            with pool.connection() as conn:
                conn.cursor().execute("select pg_sleep(0.002)")
        done.append(True)

    def forget() -> None:
        pool.getconn()

    for target, count in ((work, 8), (forget, 1)):
        threads = [threading.Thread(target=target) for _ in range(count)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    assert len(done) == 8
    for conn in [pool.getconn() for _ in range(3)]:  # the third waits for the end of the thread
        pool.putconn(conn)
    seen = pool.statistics()
    assert 0 < seen.peak <= 3
    assert (seen.taken_back, seen.in_use) == (1, 0)
    pool.close()
    assert pool.statistics().size == 0


@pytest.fixture(scope="module", params=["psycopg2", "psycopg"])
def kept(greenkit_postgres, request):
    """What a few pools did by themselves in one patched process."""
    run = run_clean([str(PROGRAMS / "pg_upkeep.py"), greenkit_postgres.dsn, request.param], timeout=90)
    assert run.returncode == 0, str(run)
    return run.json


def test_the_floor_is_opened_at_once_and_kept(kept) -> None:
    """`wait()` opens `min_size` connections side by side; when they die, upkeep replaces them."""
    assert kept["warm"] == [0, 4, 4]
    assert kept["refilled"] == [4, 4]


def test_idle_and_old_connections_go_by_themselves(kept) -> None:
    """Nobody uses the pool: what idles beyond `min_size` is closed, and so is what is too old."""
    assert kept["idle"] == [3, True]
    assert kept["lifetime"]


def test_waiters_ride_out_an_outage_behind_one_who_knocks(kept) -> None:
    """A hundred users and a server that is away: few attempts, no error, all served when it is back."""
    served, attempts, away = kept["rode out"]
    assert (served, away) == (100, 0.0)
    assert 8 <= attempts <= 20, "each of the 8 slots tries once, then one at a time"
    assert kept["while away"] == [True, True]
    kind, _, message = kept["late"]
    assert kind == "PoolTimeout"
    assert "connection refused" in message
    assert kept["deadline"] == ["PoolTimeout", True], "the deadline of queries bounds the wait for one too"


def test_a_server_never_reached_and_fail_fast_are_errors_at_once(kept) -> None:
    """A wrong setting is no outage, and `reconnect_timeout=0` waits for none."""
    assert kept["never reached"] == ["OperationalError", True, "connection refused"]
    assert kept["fail fast"] == [["OperationalError", True]] * 2
    assert kept["back"]


def test_the_bounds_can_be_changed_and_everything_replaced(kept) -> None:
    """`resize()` lets waiters in and closes what is too many; `drain()` and `check()` replace."""
    assert kept["too many"][:2] == ["TooManyRequests", True]
    assert kept["let in"]
    assert kept["resized"] == [1, True, 3]
    assert kept["drained"]
    assert kept["lent and drained"] == 0
    assert kept["checked"] == 0


def test_hooks_run_and_pgbouncer_is_spared_sessions(kept) -> None:
    """`configure` sets up a connection; with `pgbouncer` it is refused, and nothing is prepared."""
    assert kept["configured"] == "configured"
    assert kept["prepares"] is None
    assert kept["refused"]


def test_a_leak_is_a_finding(kept) -> None:
    """GK304 names the pool whose borrower ended without giving back."""
    assert kept["finding"] == [["GK304", True]]


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_a_refusal_is_understood_in_any_language(greenkit_postgres, driver: str) -> None:
    """A wrong password is said at once, a full and a starting server are waited for; queries stay brief."""
    run = run_clean([str(PROGRAMS / "pg_refused.py"), greenkit_postgres.dsn, driver])
    assert run.returncode == 0, str(run)
    seen = run.json
    assert seen["query"].strip().endswith("division by zero")
    assert (seen["28P01"]["asked"], seen["28P01"]["full_at"]) == (1, None)
    assert seen["28P01"]["said"].endswith(
        "FATAL:  28P01: Passwort-Authentifizierung für Benutzer »iam« fehlgeschlagen"
    )
    assert seen["53300"]["full_at"] == 0
    assert "lets in no more than 0 of its 2" in seen["53300"]["said"]
    assert (seen["57P03"]["said"], seen["57P03"]["asked"]) == ("", 2), "it was waited out"
