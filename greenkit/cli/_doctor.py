"""`greenkit doctor`: examine a target or a running program, and print the findings.

This process stays unpatched: the examined program runs in another process.
"""

from __future__ import annotations

import os
import shutil
import sys

from greenkit.cli._ready import complain
from greenkit.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from greenkit.doctor import Diagnosis

__all__ = ["diagnose"]

_STALL = 3.0


def diagnose(options: argparse.Namespace, program: Sequence[str] | None = None) -> int:
    """Run the doctor's command line, print the findings and return the exit code.

    Args:
        options: target, all, json, baseline, write_baseline, timeout, stall, probe, dsn, fix, write.
        program: The words after `--`; None when there is no `--`.
    """
    wrong = _wrong(options, program)
    if wrong:
        return complain(wrong)
    if options.fix:
        # Late: each branch needs only its own part of the doctor.
        from greenkit.cli._fix import fix

        return fix(options.target, write=options.write)
    try:
        return _show(_look(options, program), options)
    except ConfigError as error:
        return complain(error)


def _wrong(options: argparse.Namespace, program: Sequence[str] | None) -> str:
    """Return the error in the command line, or ""."""
    for seconds in (options.timeout, options.stall):
        if seconds is not None and not 0 <= seconds < float("inf"):
            return f"{seconds:g} is no number of seconds; --timeout and --stall take 0 or more"
    started, file = program is not None, bool(options.target)
    rules = (
        (started and not program, "there is no command after --; say: greenkit doctor -- python app.py"),
        (started and file, f"either the target {options.target} or a command after --, not both"),
        (started and options.probe, "--probe measures in a process of its own; name a target instead"),
        (options.fix and (started or not file), "--fix needs a file: greenkit doctor --fix app.py"),
        (not started and options.stall is not None, "--stall is for a command after --"),
        (options.write and not options.fix, "--write belongs to --fix"),
        (options.dsn and not options.probe, "--dsn belongs to --probe"),
        (options.write_baseline and not options.baseline, "--write-baseline needs --baseline FILE"),
    )
    return next((text for wrong, text in rules if wrong), "")


def _look(options: argparse.Namespace, program: Sequence[str] | None) -> Diagnosis:
    # Late: see above.
    from greenkit import doctor

    if program is None:
        return doctor.examine(
            options.target, timeout=options.timeout, probe=options.probe, dsn=options.dsn or ""
        )
    stall = _STALL if options.stall is None else options.stall
    return doctor.observe(program, timeout=options.timeout, stall=stall, quiet=options.json)


def _show(diagnosis: Diagnosis, options: argparse.Namespace) -> int:
    # Late: see above.
    from greenkit import doctor

    if options.write_baseline and not diagnosis.problem:
        count = doctor.write_baseline(diagnosis, options.baseline)
        print(f"greenkit: {options.baseline} accepts {count} findings now", file=sys.stderr)
    if options.baseline and not diagnosis.problem:
        diagnosis = doctor.accept(diagnosis, options.baseline)
    if options.json:
        print(doctor.to_json(diagnosis))
        return diagnosis.exit_code
    tty = sys.stdout.isatty()
    color = tty and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    width = shutil.get_terminal_size((100, 24)).columns if tty else 100
    print(doctor.to_text(diagnosis, width=width, color=color, everything=options.all))
    return diagnosis.exit_code
