"""Connect with psycopg2 so that libpq never blocks: not for names, not for dead hosts.

Under a wait callback libpq resolves names while the process stands still, ignores `connect_timeout`, and
never leaves a silent host for the next of a list. So names are resolved in the hub and passed as `hostaddr`
beside `host` (certificates are still checked against the name), and each address is an attempt with the
whole `connect_timeout`, as in psycopg 3.
"""

from __future__ import annotations

import functools
import ipaddress
import os
import random
from configparser import Error as ConfigParserError
from configparser import RawConfigParser
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gevent
import psycopg2
from gevent import socket
from psycopg2 import extensions

from greenkit.errors import WaitTimeout
from greenkit.postgres import _closing, _libpq
from greenkit.postgres._connect_errors import without_location
from greenkit.postgres._deadline import connect_timeout, current
from greenkit.postgres._errors import QueryTimeout, for_driver
from greenkit.postgres._psycopg2_connection import GuardedConnection, guarded
from greenkit.wait import Deadline, FdWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["attempts", "connect", "connecting"]

_VARIABLES = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
    "load_balance_hosts": "PGLOADBALANCEHOSTS",
}
_LIBRARY: str = psycopg2._psycopg.__file__
_Timeout = for_driver(QueryTimeout, psycopg2.OperationalError)


def connecting(plain: Callable[..., Any]) -> Callable[..., Any]:
    """Return psycopg2's `_connect` with guarded connections, cooperative names and all hosts tried."""

    def _connect(dsn: str, connection_factory: Any = None, **options: Any) -> Any:
        factory = guarded(GuardedConnection, connection_factory or extensions.connection)
        if any(options.values()) or extensions.get_wait_callback() is None:  # async, or not green
            return plain(dsn, connection_factory=factory, **options)
        failures: list[psycopg2.OperationalError] = []
        for attempt in attempts(dsn, failures):
            try:
                return plain(attempt, connection_factory=factory, **options)
            except psycopg2.OperationalError as error:  # noqa: PERF203 - the next may answer
                error.args = (without_location(str(error)),)
                failures.append(_named(error, attempt))
                if current().expired:
                    raise _all_of(failures) from error
        raise _all_of(failures)

    return _connect


def connect(conn: Any) -> None:
    """Be the wait callback of a connection that is being made; its socket is closed when it fails.

    Or of somebody's stand-in for a connection, of which no more is known than how to wait for it.
    """
    if not isinstance(conn, extensions.connection):
        _pump(conn, current())
        return
    limit = connect_timeout(extensions.parse_dsn(conn.dsn))
    until = Deadline.earliest(current(), Deadline.after(limit))
    # A refusal then names its SQLSTATE, which psycopg2 has only of queries.
    set_verbosity = functools.partial(_libpq.quick(_LIBRARY).PQsetErrorVerbosity, conn.pgconn_ptr)
    set_verbosity(_libpq.VERBOSE)
    try:
        _pump(conn, until)
        set_verbosity(_libpq.DEFAULT)
    except WaitTimeout:
        _give_up(conn)
        msg = f"could not connect within the deadline (connect_timeout is {limit or 0:g} s, 0 for none)"
        raise _Timeout(msg) from None
    except BaseException:
        _give_up(conn)
        raise


def attempts(dsn: str, failures: list[psycopg2.OperationalError] | None = None) -> Iterator[str]:
    """Yield a DSN for each address `dsn` means, resolving a name when its turn has come.

    A DSN with nothing to resolve and one host is yielded as it is. A name that cannot be resolved is put
    into `failures`, when given.

    Raises:
        psycopg2.OperationalError: The numbers of hosts, addresses and ports do not fit together.
    """
    parts = _with_defaults(extensions.parse_dsn(dsn))
    hosts, addresses = _list(parts, "host"), _list(parts, "hostaddr")
    _must_fit(hosts, addresses, _list(parts, "port"))
    single = max(len(hosts), len(addresses)) <= 1 and (addresses or not _is_name(_at(hosts, 0)))
    if single:
        yield dsn
        return
    limit = connect_timeout(extensions.parse_dsn(dsn))
    for server in _attempts(parts, hosts, addresses):
        try:
            found = (
                [server["hostaddr"]]
                if server["hostaddr"]
                else _resolve(server["host"], server["port"], limit)
            )
        except OSError as error:
            msg = f'could not translate host name "{server["host"]}" to address: {error}'
            if failures is not None:
                failures.append(psycopg2.OperationalError(msg))
            continue
        for address in found:
            named = {**server, "hostaddr": address}
            yield extensions.make_dsn(**{key: value for key, value in named.items() if value})


def _with_defaults(parts: dict[str, str]) -> dict[str, str]:
    """Fill in, as libpq does, what `parts` leaves open: from the service, then from the environment."""
    service = parts.get("service") or os.environ.get("PGSERVICE", "")
    found = {**(_service(service) if service else {}), **parts}
    for name, variable in _VARIABLES.items():
        if not found.get(name) and os.environ.get(variable):
            found[name] = os.environ[variable]
    # An attempt names everything: libpq would look the service's hosts up again.
    if found.get("host") or found.get("hostaddr"):
        found.pop("service", None)
    return found


def _service(name: str) -> dict[str, str]:
    """Return what libpq's service files say of `name`; a service that is not found is libpq's error."""
    folder = os.environ.get("PGSYSCONFDIR", "/etc/postgresql-common")
    own = os.environ.get("PGSERVICEFILE") or str(Path("~/.pg_service.conf").expanduser())
    for file in (own, f"{folder}/pg_service.conf"):
        parser = RawConfigParser(interpolation=None, comment_prefixes=("#",), delimiters=("=",), strict=False)
        with suppress(OSError, ConfigParserError):
            parser.read_string(Path(file).read_text())
        if parser.has_section(name):
            return dict(parser.items(name))
    return {}


def _must_fit(hosts: list[str], addresses: list[str], ports: list[str]) -> None:
    count = max(len(hosts), len(addresses))
    if hosts and addresses and len(hosts) != len(addresses):
        msg = f"could not match {len(hosts)} host names to {len(addresses)} hostaddr values"
        raise psycopg2.OperationalError(msg)
    if len(ports) > 1 and len(ports) != count:
        msg = f"could not match {len(ports)} port numbers to {count} hosts"
        raise psycopg2.OperationalError(msg)


def _named(error: psycopg2.OperationalError, attempt: str) -> psycopg2.OperationalError:
    """Return `error` with the host it is about, where libpq does not name it."""
    host = extensions.parse_dsn(attempt).get("host", "")
    if not host or host in str(error):
        return error
    named = type(error)(f'connection to server at "{host}" failed: {str(error).strip()}')
    return named.with_traceback(error.__traceback__)


def _all_of(failures: list[psycopg2.OperationalError]) -> psycopg2.OperationalError:
    """Return the error of the only attempt, or the last one's class with a line for each."""
    if len(failures) == 1:
        return failures[0]
    if not failures:
        return psycopg2.OperationalError("there is no host to connect to")
    reasons = dict.fromkeys(str(error).strip() for error in failures)  # a host may have been tried twice
    return type(failures[-1])("\n".join(reasons))


def _attempts(parts: dict[str, str], hosts: list[str], addresses: list[str]) -> Iterator[dict[str, str]]:
    ports = _list(parts, "port") or [""]
    order = list(range(max(len(hosts), len(addresses))))
    if parts.get("load_balance_hosts") == "random":
        random.shuffle(order)
    wants = [parts.get("target_session_attrs", "")]
    if wants == ["prefer-standby"]:
        wants = ["standby", "any"]
    for want in wants:
        for at in order:
            here = {"host": _at(hosts, at), "hostaddr": _at(addresses, at)}
            port = ports[at] if len(ports) > 1 else ports[0]  # `_must_fit()` has counted them
            yield {**parts, **here, "port": port, "target_session_attrs": want}


def _list(parts: dict[str, str], name: str) -> list[str]:
    value = parts.get(name, "")
    return value.split(",") if value else []


def _at(values: list[str], at: int) -> str:
    return values[at] if at < len(values) else ""


def _is_name(host: str) -> bool:
    if not host or host.startswith(("/", "@")):
        return False
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False


def _resolve(host: str, port: str, limit: float | None) -> list[str]:
    if not _is_name(host):
        return [""]
    until = Deadline.earliest(current(), Deadline.after(limit))
    timer = gevent.Timeout.start_new(until.timeout())
    try:
        found = socket.getaddrinfo(host, port or None, type=socket.SOCK_STREAM)
    except gevent.Timeout as ended:
        if ended is not timer:
            raise
        msg = f"the name of host {host!r} was not resolved within the deadline"
        if current().expired:
            raise _Timeout(msg) from None
        raise OSError(msg) from None
    finally:
        timer.close()
    return [str(info[4][0]) for info in found]


def _pump(conn: Any, until: Deadline) -> None:
    # A watch per wait: libpq takes another descriptor for every address it tries.
    while (state := conn.poll()) != extensions.POLL_OK:
        watch = FdWatch(conn.fileno())
        try:
            reading = state == extensions.POLL_READ
            (watch.wait_read if reading else watch.wait_write)(until.timeout())
        finally:
            watch.close()


def _give_up(conn: Any) -> None:
    """Close the half-open socket now; psycopg2 would when the last traceback is forgotten."""
    try:
        line = os.dup(conn.fileno())
    except (OSError, psycopg2.Error):
        return  # no socket yet
    try:
        # Allowed here: psycopg2 holds no lock of the connection while it connects.
        extensions.connection.close(conn)
        _closing.close_half_open(line)
    finally:
        os.close(line)
