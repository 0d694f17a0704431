"""Connect with psycopg2 so that nothing waits in libpq: not for names, not for dead hosts.

Under a wait callback libpq resolves names with the process standing still, ignores
`connect_timeout`, and never leaves a silent host for the next of a list. So names are resolved in
the hub and given as `hostaddr` beside `host` (certificates are still checked against the name),
and each address is an attempt of its own with the whole `connect_timeout`, as psycopg 3 does it.
"""

from __future__ import annotations

import ipaddress
import os
import random
from typing import TYPE_CHECKING, Any

import gevent
import psycopg2
from gevent import socket
from psycopg2 import extensions

from greenkit.errors import WaitTimeout
from greenkit.postgres import _farewell
from greenkit.postgres._deadline import current
from greenkit.postgres._errors import QueryTimeout, for_driver
from greenkit.postgres._guard import GuardedConnection, guarded
from greenkit.wait import Deadline, FdWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["CONNECT_TIMEOUT", "attempts", "connect", "connect_timeout", "connecting"]

CONNECT_TIMEOUT = 130.0
"""Seconds for a connect whose DSN names no `connect_timeout`, as in psycopg 3."""

_Timeout = for_driver(QueryTimeout, psycopg2.OperationalError)


def connecting(plain: Callable[..., Any]) -> Callable[..., Any]:
    """Return psycopg2's `_connect` with guarded connections, cooperative names and all hosts tried.

    Switches: never (the returned function may).
    """

    def _connect(dsn: str, connection_factory: Any = None, **options: Any) -> Any:
        factory = guarded(GuardedConnection, connection_factory or extensions.connection)
        if any(options.values()) or extensions.get_wait_callback() is None:  # async, or not green
            return plain(dsn, connection_factory=factory, **options)
        failure: Exception | None = None
        for attempt in attempts(dsn):
            try:
                return plain(attempt, connection_factory=factory, **options)
            except psycopg2.OperationalError as error:  # noqa: PERF203 - the next may answer
                if current().expired:
                    raise
                failure = error
        raise failure or psycopg2.OperationalError("there is no host to connect to")

    return _connect


def connect(conn: Any) -> None:
    """Be the wait callback of a connection that is being made; its socket is closed when it fails.

    Or of somebody's stand-in for a connection, of which no more is known than how to wait for it.

    Switches: may.
    """
    if not isinstance(conn, extensions.connection):
        _pump(conn, current())
        return
    limit = connect_timeout(conn.dsn)
    until = Deadline.earliest(current(), Deadline.after(limit))
    try:
        _pump(conn, until)
    except WaitTimeout:
        _give_up(conn)
        msg = f"could not connect within the deadline (connect_timeout is {limit or 0:g} s, 0 for none)"
        raise _Timeout(msg) from None
    except BaseException:
        _give_up(conn)
        raise


def connect_timeout(dsn: str) -> float | None:
    """Return the DSN's (or libpq's environment's) connect timeout; None when it says "never".

    Switches: never.
    """
    value = extensions.parse_dsn(dsn).get("connect_timeout") or os.environ.get("PGCONNECT_TIMEOUT")
    if not value:
        return CONNECT_TIMEOUT
    return float(value) if float(value) > 0 else None


def attempts(dsn: str) -> Iterator[str]:
    """Yield a DSN for each address `dsn` means, resolving a name when its turn has come.

    A DSN with nothing to resolve and one host is yielded as it is.

    Raises:
        psycopg2.OperationalError: None of the names could be resolved.

    Switches: may.
    """
    parts: dict[str, str] = extensions.parse_dsn(dsn)
    hosts, addresses = _list(parts, "host"), _list(parts, "hostaddr")
    single = max(len(hosts), len(addresses)) <= 1 and (addresses or not _is_name(_at(hosts, 0)))
    # A service file's hosts are libpq's secret.
    if single or "service" in parts or os.environ.get("PGSERVICE"):
        yield dsn
        return
    limit, failures, found_any = connect_timeout(dsn), [], False
    for one in _in_turn(parts, hosts, addresses):
        try:
            found = [one["hostaddr"]] if one["hostaddr"] else _resolve(one["host"], one["port"], limit)
        except OSError as error:
            failures.append(f'could not translate host name "{one["host"]}" to address: {error}')
            continue
        for address in found:
            found_any = True
            named = {**one, "hostaddr": address}
            yield extensions.make_dsn(**{key: value for key, value in named.items() if value})
    if not found_any:
        raise psycopg2.OperationalError("\n".join(failures))


def _in_turn(parts: dict[str, str], hosts: list[str], addresses: list[str]) -> Iterator[dict[str, str]]:
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
            port = ports[at] if len(ports) > 1 else ports[0]
            yield {**parts, **here, "port": port, "target_session_attrs": want}


def _list(parts: dict[str, str], name: str) -> list[str]:
    value = parts.get(name) or os.environ.get(f"PG{name.upper()}", "")
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
    return [str(one[4][0]) for one in found]


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
        _farewell.give_up(line)
    finally:
        os.close(line)
