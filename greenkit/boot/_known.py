"""Libraries that block in C or clash with gevent: a table, each row with what it is known from.

A row whose library can also be used rightly is information; the watchdog says when it was not.
"""

from __future__ import annotations

from typing import NamedTuple

from greenkit.findings import Severity

__all__ = ["HOOKED", "KNOWN", "KnownLibrary"]

HOOKED = ("_asyncio", "grpc._cython.cygrpc", "multiprocessing", "psycopg.waiting", "psycopg2._psycopg")
"""Modules that need a hook, or a look at how they are used."""


class KnownLibrary(NamedTuple):
    """Say what a library does in a patched process.

    Attributes:
        module: The module that gives it away.
        severity: How bad its mere presence is; information when it can be used rightly.
        rule: "known-blocker" or "foreign-loop".
        effect: What it does.
        text: The same as a sentence, with where it is known from.
        hint: What to do.
    """

    module: str
    severity: Severity
    rule: str
    effect: str
    text: str
    hint: str


_POOL = "Call it through greenkit.offload(), or in a prefork worker."
KNOWN: tuple[KnownLibrary, ...] = (
    KnownLibrary(
        "MySQLdb._mysql",
        Severity.WARNING,
        "known-blocker",
        "blocks-hub",
        "mysqlclient waits in C (mysql_real_query has no wait hook); each query stops every greenlet",
        "Use PyMySQL, which waits through sockets: pymysql.install_as_MySQLdb().",
    ),
    KnownLibrary(
        "confluent_kafka.cimpl",
        Severity.INFO,
        "known-blocker",
        "blocks-hub",
        "confluent-kafka waits in librdkafka: poll(0.4) was measured to stop the hub for 0.4 s",
        "Call poll(0) and gevent.sleep() in turn, or the threadpool.",
    ),
    KnownLibrary(
        "oracledb.thick_impl",
        Severity.INFO,
        "known-blocker",
        "blocks-hub",
        "python-oracledb in thick mode waits in the Oracle client library (its documentation: thin mode"
        " uses Python sockets)",
        "Stay in thin mode: do not call oracledb.init_oracle_client().",
    ),
    KnownLibrary(
        "cx_Oracle",
        Severity.WARNING,
        "known-blocker",
        "blocks-hub",
        "cx_Oracle waits in the Oracle client library",
        "Use python-oracledb in thin mode.",
    ),
    KnownLibrary(
        "pyodbc",
        Severity.WARNING,
        "known-blocker",
        "blocks-hub",
        "pyodbc waits in the ODBC driver manager",
        _POOL,
    ),
    KnownLibrary(
        "pymssql._mssql",
        Severity.INFO,
        "known-blocker",
        "blocks-hub",
        "pymssql waits in FreeTDS unless it has a wait callback (its documentation, examples for gevent)",
        "Give pymssql.set_wait_callback() a function that waits with gevent.",
    ),
    KnownLibrary(
        "_pylibmc",
        Severity.WARNING,
        "known-blocker",
        "blocks-hub",
        "pylibmc waits in libmemcached",
        "Use pymemcache, which waits through sockets.",
    ),
    KnownLibrary(
        "zmq.backend.cython._zmq",
        Severity.INFO,
        "known-blocker",
        "blocks-hub",
        "pyzmq's own sockets wait in libzmq (its documentation: zmq.green)",
        "Use zmq.green in place of zmq.",
    ),
    KnownLibrary(
        "uvloop.loop",
        Severity.INFO,
        "foreign-loop",
        "blocks-hub",
        "uvloop waits in libuv; while its loop runs no greenlet does (300 of 300 ms measured)",
        "Run the loop in a native thread: greenkit.offload(uvloop.run, main()).",
    ),
    KnownLibrary(
        "eventlet.hubs",
        Severity.WARNING,
        "foreign-loop",
        "hangs",
        "eventlet and gevent each bring a hub; waits of one are not seen by the other",
        "Use one of them in a process.",
    ),
    KnownLibrary(
        "pyrate_limiter.limiter",
        Severity.INFO,
        "foreign-loop",
        "crashes",
        "pyrate-limiter runs asyncio.run() in a thread; under the patch both are greenlets of one thread",
        "Use greenkit.Limiter.",
    ),
)  # fmt: skip
"""Measured, or said by the library's own documentation; its presence alone is seldom a fault."""
