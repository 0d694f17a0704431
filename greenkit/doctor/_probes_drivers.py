"""Probes of packages that may be absent: database drivers and HTTP clients."""

from __future__ import annotations

from importlib.util import find_spec

from greenkit.doctor._probes import WAIT, silent_server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["driver_probes"]


def driver_probes(dsn: str) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield the probes of the packages that are installed; databases only with an address.

    Args:
        dsn: Address of a Postgres server; "" leaves the drivers out.
    """
    query = f"SELECT pg_sleep({WAIT})"

    def psycopg2() -> None:
        import psycopg2  # here and below: it may be absent, and importing it now runs its hook

        connection = psycopg2.connect(dsn)
        connection.cursor().execute(query)
        connection.close()

    def psycopg() -> None:
        import psycopg

        with psycopg.connect(dsn) as connection:
            connection.execute(query)

    drivers = (("psycopg2", psycopg2), ("psycopg", psycopg)) if dsn else ()
    for package, call in (*drivers, ("requests", _requests), ("httpx", _httpx), ("httpx2", _httpx2)):
        if find_spec(package) is not None:
            yield f"{package} {'query' if dsn and package.startswith('psycopg') else 'get'}", call


def _requests() -> None:
    import requests

    with silent_server() as (host, port):
        try:
            requests.get(f"http://{host}:{port}/", timeout=WAIT)
        except requests.Timeout:
            pass


# verify=False: plain http on loopback, and reading every authority takes as long as the wait.


def _httpx() -> None:
    import httpx

    with silent_server() as (host, port), httpx.Client(timeout=WAIT, trust_env=False, verify=False) as client:  # noqa: S501
        try:
            client.get(f"http://{host}:{port}/")
        except httpx.TimeoutException:
            pass


def _httpx2() -> None:
    import httpx2

    with (
        silent_server() as (host, port),
        httpx2.Client(timeout=WAIT, trust_env=False, verify=False) as client,
    ):
        try:
            client.get(f"http://{host}:{port}/")
        except httpx2.TimeoutException:
            pass
