"""What a block of the hub means: a call in C, a driver without its hook, a foreign loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from greenkit import boot
from greenkit.findings import Finding, Severity

if TYPE_CHECKING:
    from greenkit.facts import HubBlocked

__all__ = ["about_block", "about_collection", "about_startup", "explains", "is_startup"]

_STUCK = 1.0
"""Seconds after which a block that is not over may never be."""


@dataclass(frozen=True, slots=True)
class _Meaning:
    """Say what a package in the blocked stack, or in the call, gives away."""

    package: str
    id: str
    rule: str
    holder: str
    attribute: str
    hint: str


_COMPUTES = (
    "Split it with gevent.sleep(0), or move it to another process: a native thread would hold the GIL."
)
_PACKAGE = "No line of this project was in it; look again if it is told for more than first requests."
_THREAD = "Run it in a native thread: greenkit.offload(…)."
_MEANINGS = (
    _Meaning(
        "psycopg2",
        "GK120",
        "no-wait-callback",
        "psycopg2.extensions",
        "set_wait_callback",
        "Call greenkit.postgres.install(), or import greenkit.auto first; it does.",
    ),
    _Meaning(
        "grpc",
        "GK120",
        "no-grpc-hook",
        "grpc.experimental.gevent",
        "init_gevent",
        "Before the first channel: import grpc.experimental.gevent as g; g.init_gevent()",
    ),
    _Meaning("uvloop", "GK123", "foreign-loop", "uvloop", "run", _THREAD),
    _Meaning("asyncio", "GK123", "foreign-loop", "asyncio", "run", _THREAD),
    _Meaning(
        "multiprocessing",
        "GK124",
        "multiprocessing",
        "multiprocessing.pool",
        "Pool",
        "Use gevent's threadpool, concurrent.futures.ProcessPoolExecutor, or a prefork worker.",
    ),
)


def explains(one: Finding, block: HubBlocked) -> bool:
    """Tell whether a finding that is known already is why the hub stood still.

    Switches: never.
    """
    if one.effect not in {"blocks-hub", "deadlocks", "hangs"} or one.severity is Severity.INFO:
        return False
    if one.rule == "never-patched":
        return True
    if one.rule in {"no-wait-callback", "no-grpc-hook", "multiprocessing"}:
        return False  # a block says it better: with the line of the call
    if one.rule == "decided-at-import":
        return "psycopg" in _packages(block)
    tail = one.original.rpartition(".")[2]
    same_call = bool(tail) and block.call.rpartition(".")[2] == tail
    return one.holder == boot.called(block.module) or (one.rule.startswith(("patch", "option")) and same_call)


def is_startup(block: HubBlocked) -> bool:
    """Tell whether a block is work that a program does once, and no wait.

    Switches: never.
    """
    return bool(block.startup) and block.computes


def about_startup(block: HubBlocked) -> Finding:
    """Return the information about the longest block of the work a program does once.

    Switches: never.
    """
    where = block.where.rpartition(" ")[0]
    return Finding(
        "GK401",
        Severity.INFO,
        f"imports and other work that is done once held the hub; the longest, {block.startup}, computed for"
        f" {block.seconds:.2f} s in {block.where}",
        hint="Nothing to mend; to spare the first request, import it before the server starts.",
        where=where,
        rule="start-up",
    )


def about_collection(block: HubBlocked) -> Finding:
    """Return the information about the longest full garbage collection: no line of the program caused it.

    Switches: never.
    """
    return Finding(
        "GK401",
        Severity.INFO,
        "full garbage collections held the hub; the longest, for"
        f" {block.seconds:.2f} s, came in {block.where}",
        hint="Keep fewer containers alive, or call gc.freeze() once what stays has been made.",
        where=block.where.rpartition(" ")[0],
        rule="garbage-collection",
    )


def about_block(block: HubBlocked) -> Finding:
    """Return the finding about a block nothing else explains.

    Switches: never.
    """
    where = block.where.rpartition(" ")[0]
    place = boot.shown(where)
    forever = not block.over and block.seconds >= _STUCK
    packages = _packages(block)
    meaning = next((one for one in _MEANINGS if one.package in packages), None)
    if not boot.patched():
        meaning = _Meaning(
            "", "GK104", "never-patched", boot.called(block.module), block.function, boot.first_line()
        )
    said = (
        f"the hub stood still for {block.seconds:.2f} s in {block.where}: {_what(block)} let no greenlet run"
    )
    severity = Severity.ERROR
    if not meaning and block.computes and not block.call:
        own = boot.is_users_file(where.rpartition(":")[0])
        # A package that computes at a first request is nothing the project can split.
        severity = Severity.ERROR if own else Severity.INFO
        hint = _COMPUTES if own else _PACKAGE
        meaning = _Meaning("", "GK401", "blocking-call", boot.called(block.module), block.function, hint)
    task = (f"task {block.task}",) if block.task else ()
    return Finding(
        meaning.id if meaning else "GK401",
        severity,
        said,
        hint=meaning.hint if meaning else _THREAD,
        where=where,
        evidence=(*task, *block.stack[:12]),
        rule=meaning.rule if meaning else "blocking-call",
        effect="deadlocks" if forever else "blocks-hub",
        holder=meaning.holder if meaning else boot.called(block.module),
        attribute=meaning.attribute if meaning else block.function,
        original=block.call,
        captured_at=place,
    )


def _what(block: HubBlocked) -> str:
    if block.call:
        return block.call
    return "Python code that computes" if block.computes else "a call in C"


def _packages(block: HubBlocked) -> set[str]:
    """Return the packages in the blocked stack and in the call."""
    parts = {part for line in block.stack for part in line.rpartition(":")[0].split("/")}
    return parts | {block.call.partition(".")[0]}
