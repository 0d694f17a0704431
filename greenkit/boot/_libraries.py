"""Findings about libraries: drivers without their hook, C code that waits, foreign loops.

Looks at what is loaded and imports none of it. Imported late, by `evidence()`.
"""

from __future__ import annotations

import sys
from types import BuiltinFunctionType

from greenkit._heap import instances, with_subclasses
from greenkit.boot._blame import imported_at
from greenkit.boot._graph import namespace_of
from greenkit.boot._known import KNOWN
from greenkit.boot._places import bound_at
from greenkit.boot._running_loop import loop_isolation
from greenkit.boot._search import patched_at
from greenkit.boot._shown import file_of, shown
from greenkit.boot._source import calls_of, user_modules
from greenkit.findings import Finding, Severity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["library_findings"]

_C_FUNCTIONS = frozenset({"builtin_function_or_method", "cython_function_or_method"})


REMEDY = (
    "import greenkit.auto in line 1 gives each greenlet a running loop of its own (unless"
    " GREENKIT_ASYNCIO=off); or run the loop in a native thread: greenkit.offload(asyncio.run, main())."
)


def library_findings() -> Iterator[Finding]:
    """Yield what the loaded libraries need in this patched process.

    Switches: never.
    """
    yield from _psycopg2()
    yield from _psycopg3()
    yield from _grpc()
    yield from _running_loop()
    yield from _multiprocessing()
    for known in KNOWN:
        if known.module in sys.modules:
            root, _, name = known.module.partition(".")
            found = Finding(
                "GK123" if known.rule == "foreign-loop" else "GK122",
                known.severity,
                known.text,
                hint=known.hint,
                rule=known.rule,
                effect=known.effect,
                holder=root,
                attribute=name,
            )
            yield _placed(found, root)


def _placed(found: Finding, module: str) -> Finding:
    """Return `found` with the places: where it is, else who imported `module`."""
    brought = imported_at(module)
    return found._replace(
        captured_at=shown(found.where) or brought,
        imported_at=brought,
        patched_at=patched_at(),
    )


def _psycopg2() -> Iterator[Finding]:
    driver = namespace_of(sys.modules.get("psycopg2._psycopg"))
    if driver is None or driver["get_wait_callback"]() is not None:
        return
    in_use = bool(instances(with_subclasses(driver["connection"])))
    found = Finding(
        "GK120",
        Severity.ERROR if in_use else Severity.WARNING,
        "psycopg2 has no wait callback: each query stops every greenlet until the server answers",
        hint="Call greenkit.postgres.install(), or import greenkit.auto first; it does.",
        rule="no-wait-callback",
        effect="blocks-hub",
        holder="psycopg2.extensions",
        attribute="set_wait_callback",
    )
    yield _placed(found, "psycopg2")


def _psycopg3() -> Iterator[Finding]:
    chosen = (namespace_of(sys.modules.get("psycopg.waiting")) or {}).get("wait")
    if chosen is None or type(chosen).__name__ not in _C_FUNCTIONS:
        return
    found = Finding(
        "GK121",
        Severity.ERROR,
        "psycopg chose its C wait function when it was imported, before the patch: each query stops every"
        " greenlet",
        hint="Patch before psycopg is imported, or call greenkit.postgres.install().",
        where=bound_at("psycopg.waiting", "wait"),
        rule="decided-at-import",
        effect="blocks-hub",
        holder="psycopg.waiting",
        attribute="wait",
        original="wait_c",
    )
    yield _placed(found, "psycopg.waiting")


def _grpc() -> Iterator[Finding]:
    if "grpc._cython.cygrpc" not in sys.modules or "grpc.experimental.gevent" in sys.modules:
        return
    found = Finding(
        "GK120",
        Severity.WARNING,
        "grpc has not been told of gevent: each call stops every greenlet until the server answers",
        hint="Before the first channel: import grpc.experimental.gevent as g; g.init_gevent()",
        rule="no-grpc-hook",
        effect="blocks-hub",
        holder="grpc.experimental.gevent",
        attribute="init_gevent",
    )
    yield _placed(found, "grpc")


def _running_loop() -> Iterator[Finding]:
    isolation = loop_isolation()
    if isolation.installed:
        return
    if isolation.failed:
        yield _placed(_not_isolated(isolation.failed), "asyncio")
    running = (namespace_of(sys.modules.get("_asyncio")) or {}).get("_get_running_loop")
    if type(running) is not BuiltinFunctionType or running() is None:
        return
    found = Finding(
        "GK123",
        Severity.WARNING,
        "an asyncio loop runs in this thread, where the greenlets live: a second one is refused, and"
        " Django's ORM refuses to work in every other greenlet",
        hint=REMEDY,
        rule="foreign-loop",
        effect="crashes",
        holder="asyncio",
        attribute="run",
    )
    yield _placed(found, "asyncio")


def _not_isolated(reason: str) -> Finding:
    return Finding(
        "GK123",
        Severity.WARNING,
        "greenlets share asyncio's running loop although GREENKIT_ASYNCIO is on: the self-test failed"
        f" ({reason}). While a loop runs in one greenlet, asyncio.run() and Django's ORM are refused"
        " in the others",
        hint="Run loops in a native thread: greenkit.offload(asyncio.run, main()).",
        rule="loops-not-isolated",
        effect="crashes",
        holder="asyncio",
        attribute="run",
    )


def _multiprocessing() -> Iterator[Finding]:
    package = sys.modules.get("multiprocessing")
    pool = (namespace_of(package) or {}).get("Pool")
    for module in user_modules() if pool is not None else ():
        values = list((namespace_of(sys.modules.get(module)) or {}).values())
        if not any(one is package or one is pool for one in values):
            continue
        for line, text, _ in calls_of(file_of(module), "Pool"):
            found = Finding(
                "GK124",
                Severity.ERROR,
                f"{text}() in a patched process hangs: its handler threads become greenlets that wait in C",
                hint="Use gevent's threadpool, concurrent.futures.ProcessPoolExecutor, or a prefork worker.",
                where=f"{file_of(module)}:{line}",
                rule="multiprocessing",
                effect="deadlocks",
                holder="multiprocessing.pool",
                attribute="Pool",
            )
            yield _placed(found, "multiprocessing")
