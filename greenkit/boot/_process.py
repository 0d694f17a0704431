"""Findings about the kind of process: a green pool that is not patched, a patch where no pool is green."""

from __future__ import annotations

import ast
import os
import sys

from greenkit.boot._launch import Decision, decide
from greenkit.boot._record import RECORD
from greenkit.boot._remedy import first_line
from greenkit.boot._search import call_text, functions_naming, patched_at
from greenkit.boot._shown import called, file_of, shown
from greenkit.boot._source import dotted, function_at, parsed, user_modules
from greenkit.findings import Finding, Severity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["mismatches", "unpatched"]

_GREEN = "celery.concurrency.gevent"
# Loaded by Celery or gunicorn when, and only when, the worker is of that kind.
_NOT_GREEN: dict[str, tuple[str, Severity, str]] = {
    "celery.concurrency.prefork": (
        "Celery's prefork pool",
        Severity.ERROR,
        "Celery's timer thread becomes a greenlet over a native sleep, and no task is ever run",
    ),
    "celery.concurrency.thread": (
        "Celery's threads pool",
        Severity.INFO,
        "its threads become greenlets, so -c counts greenlets and nothing is parallel",
    ),
    "gunicorn.workers.gthread": (
        "gunicorn's gthread worker",
        Severity.ERROR,
        "its threads become greenlets over a native poll, and no request is answered",
    ),
}


def _decision() -> Decision:
    return decide(sys.argv, os.environ, orig_argv=sys.orig_argv, loaded=sys.modules)


def _is_worker() -> bool:
    # `app.worker_main()` leaves the script's own command line.
    return _decision().worker or "celery.worker.components" in sys.modules


def unpatched() -> Iterator[Finding]:
    """Yield what an unpatched process should know: that a green pool waits for a patch, or nothing.

    Switches: never.
    """
    decision = _decision()
    if not (_GREEN in sys.modules or (decision.worker and decision.patch)):
        yield Finding(
            "GK103",
            Severity.INFO,
            f"this process is not patched ({decision.reason})",
            hint=first_line(),
            rule="not-patched",
        )
        return
    holder, attribute, place = _who_chose(decision)
    yield _never_patched(decision, holder, attribute, place)
    for module, function in functions_naming("patch_all"):
        tree = parsed(file_of(module))
        definition = function_at(tree, function.__code__) if tree is not None else None
        signal = _signal_of(definition)
        name = f"{signal} handler" if signal else function.__qualname__
        line = definition.lineno if definition is not None else function.__code__.co_firstlineno
        yield _never_patched(decision, called(module), name, f"{file_of(module)}:{line}")


def _never_patched(decision: Decision, holder: str, attribute: str, place: str) -> Finding:
    return Finding(
        "GK104",
        Severity.ERROR,
        f"this worker's pool is gevent's (by {holder} {attribute}), but the process is not patched; it takes"
        " tasks and never runs them",
        hint="Start it with: greenkit celery " + " ".join(sys.argv[1:]),
        where=place,
        rule="never-patched",
        effect="hangs",
        holder=holder,
        attribute=attribute,
        captured_at=shown(place),
    )


def _who_chose(decision: Decision) -> tuple[str, str, str]:
    """Return (holder, attribute, `file:line`) of whatever named the pool."""
    if decision.worker and decision.pool and os.environ.get("CELERY_WORKER_POOL") == decision.pool:
        return "environment", "CELERY_WORKER_POOL", ""
    if decision.worker and decision.pool:
        return "command line", f"--pool={decision.pool}", ""
    for module in user_modules():
        tree = parsed(file_of(module))
        for node in ast.walk(tree) if tree is not None else ():
            setting = _sets_the_pool(node)
            if setting:
                return called(module), setting, f"{file_of(module)}:{getattr(node, 'lineno', 0)}"
    return "configuration", "worker_pool", ""


def _sets_the_pool(node: ast.AST) -> str:
    """Return how a node sets `worker_pool`, "" when it does not."""
    if isinstance(node, ast.Assign) and _names_gevent(node.value):
        for target in node.targets:
            text = ast.unparse(target)
            if text.rpartition(".")[2].lower().endswith("worker_pool"):
                return text
    if isinstance(node, ast.Call) and dotted(node.func).endswith("worker_main"):
        given = [one for argument in node.args for one in ast.walk(argument)]
        return dotted(node.func) if any(_names_gevent(one) for one in given) else ""
    if isinstance(node, ast.keyword) and node.arg == "worker_pool" and _names_gevent(node.value):
        return "worker_pool"
    if isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and key.value == "worker_pool" and _names_gevent(value):
                return "worker_pool"
    return ""


def _names_gevent(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) is str and "gevent" in node.value


def _signal_of(definition: ast.AST | None) -> str:
    for decorator in getattr(definition, "decorator_list", ()):
        text = ast.unparse(decorator).partition("(")[0]
        if text.endswith(".connect"):
            return text.removesuffix(".connect").rpartition(".")[2]
    return ""


def mismatches() -> Iterator[Finding]:
    """Yield a finding when the process is patched and its kind of worker cannot live with that.

    Switches: never.
    """
    if _GREEN in sys.modules:
        return
    for module, (kind, severity, does) in _NOT_GREEN.items():
        if module not in sys.modules or (module.startswith("celery") and not _is_worker()):
            continue
        call = RECORD.calls[0] if RECORD.calls else None
        yield Finding(
            "GK119",
            severity,
            f"the process is patched, but it is {kind}: {does}",
            hint='Patch only when the pool is gevent\'s: "import greenkit.auto" looks first.',
            where=RECORD.by,
            rule="pool-mismatch",
            effect="hangs",
            holder=called(call.frames[0].module) if call and call.frames else "",
            attribute=call_text(call, "patch_all") if call else "patch_all",
            captured_at=shown(RECORD.by),
            patched_at=patched_at(),
        )
