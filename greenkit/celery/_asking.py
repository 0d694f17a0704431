"""How our commands ask the running workers: one question, and one sentence when nobody answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kombu.utils.url import maybe_sanitize_url

if TYPE_CHECKING:
    from celery import Celery

__all__ = ["ask"]


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
