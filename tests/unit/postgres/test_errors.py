"""The timeouts a driver's own handlers catch."""

from __future__ import annotations

import psycopg
import psycopg2
import pytest

from greenkit.errors import WaitTimeout
from greenkit.postgres import PoolTimeout, QueryTimeout
from greenkit.postgres._errors import for_driver


@pytest.mark.parametrize("kind", [PoolTimeout, QueryTimeout])
@pytest.mark.parametrize("driver", [psycopg2, psycopg])
def test_a_timeout_is_the_drivers_error_and_ours(kind, driver) -> None:
    """`except driver.OperationalError` and `except WaitTimeout` both catch it; the words survive."""
    made = for_driver(kind, driver.OperationalError)
    error = made("no connection came free")
    assert isinstance(error, kind)
    assert isinstance(error, WaitTimeout)
    assert isinstance(error, driver.OperationalError)
    assert str(error) == "no connection came free"
    assert for_driver(kind, driver.OperationalError) is made


def test_without_a_driver_a_timeout_is_just_ours() -> None:
    """A pool of something else raises the plain class, which is a `WaitTimeout` as well."""
    assert for_driver(PoolTimeout, None) is PoolTimeout
    assert issubclass(PoolTimeout, WaitTimeout)
