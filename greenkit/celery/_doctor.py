"""What the doctor says about a Celery app, from its own command and from running workers."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from celery._state import _get_active_apps
from kombu.utils.url import maybe_sanitize_url

from greenkit import doctor
from greenkit.celery._apps import TOO_LATE, came_too_late, installed
from greenkit.celery._options import Options, unknown_keys
from greenkit.errors import ConfigError
from greenkit.findings import Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

__all__ = ["answer", "ask", "check", "diagnose", "replies"]

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


def ask(app: Celery, command: str, *, timeout: float, **arguments: Any) -> tuple[dict[str, Any], str]:
    """Return (answer by worker, ""), or ({}, what went wrong).

    Args:
        app: Whose workers.
        command: An inspect command of ours.
        timeout: Seconds the workers have to answer; a broker that is away takes some seconds more.
        arguments: The command's.

    Switches: may.
    """
    try:
        answers = app.control.inspect(timeout=timeout)._request(command, **arguments)
    except Exception as exc:  # as many kinds as there are transports
        broker = maybe_sanitize_url(app.conf.broker_read_url or app.conf.broker_url or "amqp://")
        return {}, f"the broker {broker} could not be asked: {exc}"
    answers = {name: answer for name, answer in (answers or {}).items() if "error" not in answer}
    if not answers:
        return {}, f"no worker with greenkit.celery.install(app) answered within {timeout:g} s"
    return answers, ""


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
    findings = {found: None for answer in told.values() for found in answer.findings}
    return doctor.Diagnosis(
        findings=tuple(findings),
        patched=all(answer.patched for answer in told.values()),
        by=", ".join(sorted({answer.by for answer in told.values()} - {""})),
        subject=said,
        live={name: answer.live for name, answer in told.items()},
        processes=tuple(
            {**part, "worker": name} for name, answer in told.items() for part in answer.processes
        ),
    )


def answer(state: Any, **_: Any) -> dict[str, Any]:
    """Say what the doctor sees in this worker."""
    seen = doctor.collect(str(state.hostname))
    seen = replace(seen, findings=(*seen.findings, *check(state.app)))
    told: dict[str, Any] = json.loads(doctor.to_json(seen))
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
    yield from check(app)


def check(*apps: Celery) -> list[Finding]:
    """Return what is wrong with how Celery apps use greenkit: GK501 to GK504.

    Args:
        apps: Which ones; without any, all that this process has imported.

    Switches: never.
    """
    mains = apps or [app for app in _get_active_apps() if app.main != "default"]
    return [found for app in mains for found in _find_in_app(app)]


def _find_in_app(app: Celery) -> Iterator[Finding]:
    holder = str(app.main or "")
    if came_too_late(app):
        yield Finding(
            "GK504",
            Severity.ERROR,
            TOO_LATE,
            hint="Move greenkit.celery.install(app) to the module of the app.",
            rule="installed-too-late",
            effect="degrades",
            holder=holder,
        )
    elif not installed(app):
        yield Finding(
            "GK501",
            Severity.INFO,
            "greenkit.celery.install(app) was not called: workers keep Celery's own pool and shutdown, also"
            " when a receiver of a worker's signal calls it, which is too late",
            hint="Add greenkit.celery.install(app) to the module of the app.",
            rule="not-installed",
            holder=holder,
        )
        return
    for sentence in unknown_keys(app):
        yield Finding(
            "GK503",
            Severity.WARNING,
            sentence,
            hint="Mend the key in the app's configuration.",
            rule="unknown-key",
            holder=holder,
            attribute=sentence.partition(" ")[0],
        )
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
