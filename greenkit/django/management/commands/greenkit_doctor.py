"""`manage.py greenkit_doctor`: what is not cooperative in this project's processes."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from django.core import checks
from django.core.management.base import BaseCommand

from greenkit import doctor
from greenkit.findings import Finding, Severity

if TYPE_CHECKING:
    from argparse import ArgumentParser

__all__ = ["Command"]


class Command(BaseCommand):  # type: ignore[misc]  # Django ships no types
    """Show the doctor's findings about this process, and greenkit's system checks among them."""

    help = "Say what is not cooperative in this process. Ends with 1 for warnings and errors."
    # The checks run below, so that they appear in the report and not before it.
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add --json, --baseline and --probe."""
        parser.add_argument("--json", action="store_true", help="print one JSON object")
        parser.add_argument("--baseline", metavar="FILE", help="leave out the findings this file accepts")
        parser.add_argument(
            "--probe", action="store_true", help="call the suspect functions and measure them"
        )

    def handle(self, *_: Any, **options: Any) -> None:
        """Print the report and end with its exit code."""
        seen = doctor.collect("manage.py greenkit_doctor")
        seen = replace(seen, findings=(*seen.findings, *_checks()))
        if options["probe"]:
            seen = doctor.with_probes(seen)
        if options["baseline"]:
            seen = doctor.accept(seen, options["baseline"])
        color = not options["no_color"] and self.stdout.isatty()
        self.stdout.write(doctor.to_json(seen) if options["json"] else doctor.to_text(seen, color=color))
        if seen.exit_code:
            sys.exit(seen.exit_code)


def _checks() -> list[Finding]:
    levels = {checks.INFO: Severity.INFO, checks.WARNING: Severity.WARNING, checks.ERROR: Severity.ERROR}
    return [
        Finding(
            str(message.id),
            levels[message.level],
            str(message.msg),
            hint=str(message.hint or ""),
            rule="system-check",
        )
        for message in checks.run_checks()
        if str(message.id).startswith("GK") and message.level in levels
    ]
