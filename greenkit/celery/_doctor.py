"""What the doctor says about a Celery app, from its own command and from running workers."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from greenkit import doctor
from greenkit.celery._asking import ask
from greenkit.celery._install import installed
from greenkit.celery._options import Options
from greenkit.errors import ConfigError
from greenkit.findings import Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

__all__ = ["answer", "diagnose", "replies"]

_GREEN = ("gevent", "greenkit.celery:TaskPool")


def diagnose(app: Celery) -> doctor.Diagnosis:
    """Return how a worker of `app` would run, seen from this process.

    Imports the app's task modules, as a worker does.

    Switches: may.
    """
    pool, source = _pool(app)
    said = f"workers of {app.main or 'this app'} (pool {pool}, {source})"
    try:
        app.loader.import_default_modules()
    except Exception as error:
        return replace(doctor.collect(said), problem=f"a task module does not import: {error!r}")
    seen = doctor.collect(said)
    # This process is a command: that it is not patched says nothing about a worker.
    kept = [found for found in seen.findings if found.id != "GK103"]
    return replace(seen, findings=(*kept, *_of_app(app, pool, source)))


def replies(app: Celery, *, timeout: float) -> doctor.Diagnosis:
    """Return what the running workers of `app` say about themselves.

    Args:
        app: Whose workers.
        timeout: Seconds they have to answer.

    Switches: may.
    """
    answers, trouble = ask(app, "greenkit_doctor", timeout=timeout)
    said = f"the running workers of {app.main or 'this app'}"
    if trouble:
        return doctor.Diagnosis(subject=said, problem=trouble)
    told = {name: doctor.from_document(answer) for name, answer in answers.items()}
    findings = {found: None for one in told.values() for found in one.findings}
    return doctor.Diagnosis(
        findings=tuple(findings),
        patched=all(one.patched for one in told.values()),
        by=", ".join(sorted({one.by for one in told.values()} - {""})),
        subject=said,
        live={name: one.live for name, one in told.items()},
        processes=tuple({**part, "worker": name} for name, one in told.items() for part in one.processes),
    )


def answer(state: Any, **_: Any) -> dict[str, Any]:
    """Say what the doctor sees in this worker."""
    told: dict[str, Any] = json.loads(doctor.to_json(doctor.collect(str(state.hostname))))
    return told


def _pool(app: Celery) -> tuple[str, str]:
    """Return the pool a worker gets that names none on its command line, and who says so."""
    custom = os.environ.get("CELERY_CUSTOM_WORKER_POOL", "")
    for pool, source in (
        (os.environ.get("CELERY_WORKER_POOL", ""), "by CELERY_WORKER_POOL"),
        (str(app.conf.worker_pool or ""), "by worker_pool of the configuration"),
    ):
        if pool and pool != "prefork":
            return (custom, "by CELERY_CUSTOM_WORKER_POOL") if pool == "custom" and custom else (pool, source)
    return "prefork", "unless -P names another"


def _of_app(app: Celery, pool: str, source: str) -> Iterator[Finding]:
    if pool in _GREEN and source.endswith("configuration"):
        yield Finding(
            "GK119",
            Severity.ERROR,
            "worker_pool of the configuration is gevent's: Celery reads it too late to patch, and the worker"
            " would take tasks and never run them",
            hint="Take it out and start workers with: greenkit celery -A … worker",
            rule="pool-mismatch",
            effect="hangs",
            holder=str(app.main or ""),
            attribute="conf.worker_pool",
        )
    if not installed(app):
        yield Finding(
            "GK501",
            Severity.INFO,
            "greenkit.celery.install(app) was not called: workers keep Celery's own pool and shutdown",
            hint="Add greenkit.celery.install(app) to the module of the app.",
            rule="not-installed",
            holder=str(app.main or ""),
        )
        return
    try:
        Options.read(app.conf, {})
    except ConfigError as error:
        yield _bad_option(app, error)


def _bad_option(app: Celery, error: ConfigError) -> Finding:
    return Finding(
        "GK502",
        Severity.ERROR,
        f"a worker of this app would refuse to start: {error}",
        hint="Mend the greenkit_… key of the configuration.",
        rule="bad-option",
        effect="crashes",
        holder=str(app.main or ""),
    )
