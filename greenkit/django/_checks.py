"""Django's system checks: each message keeps its finding's greenkit id and hint.

`find_*` return findings; `apps` registers the `check_*` functions.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from gevent import monkey

from greenkit import postgres
from greenkit.django import _settings
from greenkit.django.postgresql._options import pool_options
from greenkit.django.postgresql._pool import AliasPool
from greenkit.errors import ConfigError
from greenkit.findings import Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["check_celery", "check_databases", "check_room", "check_settings"]

_OURS = ("greenkit.django.postgresql", "greenkit.django.postgis")
_STOCK = ("django.db.backends.postgresql", "django.contrib.gis.db.backends.postgis")


def check_settings(**_options: Any) -> list[checks.CheckMessage]:
    """Check `settings.GREENKIT` (GK601)."""
    try:
        _settings.read(getattr(settings, "GREENKIT", None))
    except ConfigError as error:
        return [checks.Error(str(error), hint="See docs/reference/django.md for what it knows.", id="GK601")]
    return []


def check_databases(**_options: Any) -> list[checks.CheckMessage]:
    """Check how `settings.DATABASES` and the driver fit a green process (GK3xx, GK602-GK604)."""
    patched = bool(monkey.is_module_patched("socket"))
    found: list[Finding] = []
    for alias, database in settings.DATABASES.items():
        found.extend(find_in_database(alias, database, patched=patched))
        if patched and database.get("ENGINE") in _STOCK:
            connections[alias]  # imports the driver, so that postgres.check() can see it
    engines = {database.get("ENGINE") for database in settings.DATABASES.values()}
    # greenkit's engine installs the callback when it first connects, so ignore GK302 before.
    found.extend(finding for finding in postgres.check() if finding.id == "GK302" or not engines <= {*_OURS})
    return _as_messages(found)


def check_room(*, databases: Iterable[str] | None = None, **_options: Any) -> list[checks.CheckMessage]:
    """Check with the server that it has room for the pools (GK605); runs with `--database` only."""
    return _as_messages(find_room(databases or ()))


def check_celery(**_options: Any) -> list[checks.CheckMessage]:
    """Check the Celery apps this process has imported (GK501 to GK504), if it uses `greenkit.celery`."""
    room = sys.modules.get("greenkit.celery")  # not imported: the project may have no Celery
    return [] if room is None else _as_messages(room.check())


def find_in_database(alias: str, database: dict[str, Any], *, patched: bool) -> Iterator[Finding]:
    """Check an entry of `settings.DATABASES`."""
    engine = database.get("ENGINE")
    where = f"DATABASES[{alias!r}]"
    if engine not in (*_OURS, *_STOCK):
        yield from _find_other_engine(where, str(engine))
        return
    age = database.get("CONN_MAX_AGE", 0)
    wanted = database.get("OPTIONS", {}).get("pool")
    if engine in _OURS:
        try:
            options = pool_options(wanted) or {}
            if options:
                AliasPool(_nothing, **options)  # validates the values, opens nothing
        except (ImproperlyConfigured, TypeError, ValueError) as error:
            yield Finding("GK602", Severity.ERROR, f"{where}: {error}", hint='Use "pool": {"max_size": 10}.')
            return
        if options.get("pgbouncer"):
            yield from _find_session_settings(where, database["OPTIONS"])
    yield from _find_in_lifetimes(where, engine, wanted=wanted, age=age, patched=patched)


def _find_other_engine(where: str, engine: str) -> Iterator[Finding]:
    """Check engines that wrap a PostgreSQL engine: their base class decides which pool they have."""
    base = sys.modules.get(f"{engine}.base")  # Django imports it when a connection uses it
    kind = getattr(base, "DatabaseWrapper", None)
    if not isinstance(kind, type) or issubclass(kind, _wrapper_of("greenkit.django.postgresql")):
        return
    stock = _wrapper_of("django.db.backends.postgresql")
    if issubclass(kind, stock) and monkey.is_module_patched("socket"):
        yield Finding(
            "GK608",
            Severity.WARNING,
            f"{where} uses {engine}, which builds on Django's own PostgreSQL engine: greenkit's pool, "
            "deadlines and psycopg2's wait callback are not part of it.",
            hint="docs/howto/layer-engines.md shows how to build it on greenkit.django.postgresql.",
        )


def _wrapper_of(engine: str) -> type:
    wrapper: type = importlib.import_module(f"{engine}.base").DatabaseWrapper
    return wrapper


def _nothing() -> None:
    """Stand in for `connect` in a pool that opens nothing."""


def _find_in_lifetimes(where: str, engine: str, *, wanted: Any, age: Any, patched: bool) -> Iterator[Finding]:
    if wanted and age != 0:
        yield Finding(
            "GK603",
            Severity.ERROR,
            f"{where} has a pool and CONN_MAX_AGE={age!r}: Django would hold on to what the pool lends.",
            hint='Remove CONN_MAX_AGE; OPTIONS["pool"]["max_lifetime"] is the pool\'s word for it.',
        )
    elif patched and wanted and engine in _STOCK:
        ours = _OURS[engine.endswith("postgis")]
        yield Finding(
            "GK607",
            Severity.ERROR,
            f"{where} uses Django's own pool in a green process: a greenlet killed while it waits for a"
            " connection costs the pool that connection for good.",
            hint=f'"ENGINE": "{ours}" has a pool that loses none, with the same OPTIONS["pool"].',
        )
    elif patched and not wanted:
        ours = _OURS[engine.endswith("postgis")]
        cost = (
            "and keeps it until the garbage collector comes by" if age != 0 else "and nothing bounds how many"
        )
        yield Finding(
            "GK604",
            Severity.WARNING,
            f"{where} has no pool: in this green process every greenlet opens "
            f"a connection of its own, {cost}.",
            hint=f'"ENGINE": "{ours}", "OPTIONS": {{"pool": {{"max_size": 10}}}}',
        )


def _find_session_settings(where: str, options: dict[str, Any]) -> Iterator[Finding]:
    for name in ("assume_role", "isolation_level"):
        if name in options:
            yield Finding(
                "GK606",
                Severity.ERROR,
                f"{where} goes through PgBouncer and sets {name} for a session, which PgBouncer gives to "
                "whoever comes next.",
                hint="ALTER ROLE … SET does it for every session of a role.",
            )


def find_room(aliases: Iterable[str]) -> Iterator[Finding]:
    """Ask each server that `aliases` live on how many connections it allows, and add up their pools."""
    servers: dict[tuple[str, str], list[str]] = {}
    for alias in aliases:
        connection = connections[alias]
        database = connection.settings_dict
        if database["ENGINE"] in _OURS and getattr(connection, "pool", None) is not None:
            servers.setdefault((str(database["HOST"]), str(database["PORT"])), []).append(alias)
    for shared in servers.values():
        yield from _find_room_on(shared)


def _find_room_on(aliases: list[str]) -> Iterator[Finding]:
    with connections[aliases[0]].cursor() as cursor:
        cursor.execute(
            "SELECT current_setting('max_connections')::int"
            " - current_setting('superuser_reserved_connections')::int"
        )
        (room,) = cursor.fetchone()
    processes = _settings.read(getattr(settings, "GREENKIT", None)).processes
    sizes = {alias: connections[alias].pool.statistics().max_size for alias in aliases}
    wanted = sum(sizes.values()) * processes
    if wanted > room:
        each = " + ".join(f"{size} ({alias})" for alias, size in sizes.items())
        yield Finding(
            "GK605",
            Severity.WARNING,
            f"{processes} process(es) with pools of {each} may want {wanted} connections of one server, "
            f"which has room for {room}. The rest will be refused.",
            hint=f'OPTIONS["pool"]["max_size"] = {max(1, room // processes // len(aliases))}',
        )


def _as_messages(found: Iterable[Finding]) -> list[checks.CheckMessage]:
    try:
        strict = _settings.read(getattr(settings, "GREENKIT", None)).strict
    except ConfigError:
        strict = True  # GK601 reports it
    levels = {
        Severity.INFO: checks.INFO,
        Severity.WARNING: checks.WARNING,
        Severity.ERROR: checks.ERROR if strict else checks.WARNING,
    }
    return [
        checks.CheckMessage(levels[finding.severity], finding.message, finding.hint or None, id=finding.id)
        for finding in found
    ]
