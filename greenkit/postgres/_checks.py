"""Say what is wrong with the drivers and the pools of this process (GK3xx)."""

from __future__ import annotations

import sys

from gevent import monkey

from greenkit.findings import Finding, Severity
from greenkit.postgres._install import callback, installed
from greenkit.postgres._registry import KnownPool, pools

__all__ = ["check"]

_LONG = 1.0  # seconds in all, at a line, from which on a finding says so


def check() -> tuple[Finding, ...]:
    """Return what is wrong with the loaded drivers and the pools of this process.

    Of the drivers nothing when the process is not patched.

    Switches: never.
    """
    leaks = tuple(finding for pool in pools() for finding in (*_check_pool(pool), *_check_holders(pool)))
    if not monkey.is_module_patched("socket"):
        return leaks
    return (*_check_psycopg2(), *_check_psycopg3(), *leaks)


def _check_psycopg2() -> tuple[Finding, ...]:
    if "psycopg2" not in sys.modules or installed():
        return ()
    theirs = callback()
    if theirs is None:
        return (
            Finding(
                "GK301",
                Severity.ERROR,
                "psycopg2 has no wait callback: every query stops every greenlet of the process.",
                hint="Call greenkit.postgres.install() right after the patch.",
            ),
        )
    name = f"{theirs.__module__}.{getattr(theirs, '__qualname__', theirs)}"
    return (
        Finding(
            "GK302",
            Severity.WARNING,
            f"psycopg2's wait callback is {name}, not greenkit's: queries know no deadline, and "
            "the queries of killed greenlets run on in the server.",
            hint="Call greenkit.postgres.install() after whatever sets the other one.",
        ),
    )


def _check_psycopg3() -> tuple[Finding, ...]:
    waiting = sys.modules.get("psycopg.waiting")
    if waiting is None:
        return ()
    if waiting.wait is not getattr(waiting, "wait_c", None):
        return _check_hardening()
    return (
        Finding(
            "GK303",
            Severity.ERROR,
            "psycopg was imported before the patch and waits in C: every query stops every greenlet.",
            hint='Make "import greenkit.auto" the first line, or call greenkit.postgres.install().',
        ),
    )


def _check_hardening() -> tuple[Finding, ...]:
    from greenkit.postgres._psycopg3 import is_known  # optional driver

    if is_known():
        return ()
    version = getattr(sys.modules["psycopg"], "__version__", "unknown")
    return (
        Finding(
            "GK305",
            Severity.WARNING,
            f"psycopg {version} waits in another way than greenkit knows: it is left as it is. Queries know "
            "no deadline, and the query of a killed greenlet runs on in the server.",
            hint="Install a psycopg that greenkit knows, or a newer greenkit.",
        ),
    )


def _check_pool(pool: KnownPool) -> tuple[Finding, ...]:
    count, where = pool.leaks
    if not count:
        return ()
    return (
        Finding(
            "GK304",
            Severity.WARNING,
            f"{count} borrower(s) of the pool {pool.name!r} ended without giving the connection back. Each "
            "was closed and had to be opened anew.",
            hint="Borrow with `with pool.connection() as conn:`.",
            where=where.partition(" in ")[0],
            evidence=tuple(where.splitlines()),
        ),
    )


def _check_holders(pool: KnownPool) -> tuple[Finding, ...]:
    held = sorted(pool.idle_holders.items(), key=lambda item: -item[1])
    long = [(where, seconds) for where, seconds in held if seconds >= _LONG]
    if not long:
        return ()
    where, seconds = long[0]
    return (
        Finding(
            "GK306",
            Severity.WARNING,
            f"Callers of the pool {pool.name!r} waited while others held its connections with no query"
            f" running: {seconds:.1f} s in all at {where}.",
            hint="Commit and give the connection back before you wait for something else than the database.",
            where=where.rpartition(" ")[0],
            evidence=tuple(f"{place}: {total:.1f} s" for place, total in long),
        ),
    )
