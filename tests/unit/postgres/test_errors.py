"""The timeouts a driver's own handlers catch."""

from __future__ import annotations

import psycopg
import psycopg2
import pytest

from greenkit.errors import GreenkitError, WaitTimeout
from greenkit.postgres import PoolTimeout, QueryTimeout
from greenkit.postgres._errors import for_driver


@pytest.mark.parametrize("kind", [PoolTimeout, QueryTimeout])
@pytest.mark.parametrize("driver", [psycopg2, psycopg])
def test_a_timeout_is_the_drivers_error_and_ours(kind, driver) -> None:
    """`except driver.OperationalError` and `except GreenkitError` both catch it; the words survive."""
    made = for_driver(kind, driver.OperationalError)
    error = made("no connection came free")
    assert isinstance(error, kind)
    assert isinstance(error, GreenkitError)
    assert isinstance(error, driver.OperationalError)
    assert str(error) == "no connection came free"
    assert for_driver(kind, driver.OperationalError) is made


def test_a_timeout_is_a_wait_timeout_wherever_the_driver_allows() -> None:
    """Psycopg 3 and an unknown driver allow it; psycopg2's C layout forbids Python's TimeoutError."""
    assert issubclass(for_driver(PoolTimeout, psycopg.OperationalError), WaitTimeout)
    assert issubclass(for_driver(PoolTimeout, None), WaitTimeout)
    assert not issubclass(for_driver(PoolTimeout, psycopg2.OperationalError), TimeoutError)
