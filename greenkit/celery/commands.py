"""`celery -A proj greenkit …`: greenkit's words among Celery's own.

Loaded by the `celery` command through the entry-point group `celery.commands`.
"""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING, Any

import click
from celery.bin.base import CeleryCommand, handle_preload_options

from greenkit import doctor
from greenkit.celery._doctor import diagnose, replies
from greenkit.celery._top import top_command

if TYPE_CHECKING:
    from celery import Celery

__all__ = ["greenkit"]


@click.group()
@click.pass_context
@handle_preload_options  # type: ignore[untyped-decorator]  # Celery ships no types
def greenkit(ctx: Any) -> None:
    """Look after workers that run on gevent."""


@greenkit.command(name="doctor", cls=CeleryCommand)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--worker", "of_workers", is_flag=True, help="Ask the running workers, not this process.")
@click.option("--timeout", default=2.0, show_default=True, help="Seconds to wait for workers to answer.")
@click.pass_context
@handle_preload_options  # type: ignore[untyped-decorator]  # see above
def doctor_command(ctx: Any, *, as_json: bool, of_workers: bool, timeout: float) -> None:
    """Say how workers of this app would run, and what of it is not cooperative.

    Looks at the command's own process: Celery has imported the app in it, as a worker would.
    Status 0: nothing found; 1: warnings or errors; 2: no worker answered.
    """
    app: Celery = ctx.obj.app
    diagnosis = replies(app, timeout=timeout) if of_workers else diagnose(app)
    if as_json:
        click.echo(doctor.to_json(diagnosis))
    else:
        width = shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else 100
        click.echo(doctor.to_text(diagnosis, width=width, color=not ctx.obj.no_color and sys.stdout.isatty()))
    ctx.exit(diagnosis.exit_code)


greenkit.add_command(top_command)
