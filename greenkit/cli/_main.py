"""Read the first words of the command line and hand the rest to a command."""

from __future__ import annotations

import os
import sys

from greenkit import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command of `greenkit` and return its exit code.

    Args:
        argv: The words after `greenkit`; None takes them from `sys.argv`.

    Returns:
        0; 1 when the doctor found warnings or errors; 2 for a wrong command line, a program that
        cannot be run, or a target the doctor could not look at; 141 when the reader of the output has
        gone, as `head` does. A program started by `run` or `celery` ends the process with its own code.

    Switches: may.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] in (["run"], ["celery"]):
        return _run_command(words)  # a broken pipe of the program is its own matter
    try:
        status = _run_command(words)
        sys.stdout.flush()
    except BrokenPipeError:
        # What is left in the buffer goes nowhere, else Python prints a traceback at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as a shell says of a program that SIGPIPE has ended
    return status


def _run_command(words: list[str]) -> int:
    if words[:1] == ["celery"]:
        # Late, like the others: a command loads only what it needs.
        from greenkit.cli._celery import run_celery

        return run_celery(words[1:])
    if words[:1] == ["alive"]:
        from greenkit.cli._alive import alive

        return alive(words[1:])
    # What follows "--" is a program's; argparse would also look for our options in it.
    program = words[words.index("--") + 1 :] if words[:1] == ["doctor"] and "--" in words else None
    parser = _parser()
    options = parser.parse_args(words if program is None else words[: words.index("--")])
    if options.command == "run":
        from greenkit.cli._run import run

        return run(options.program, mode=options.mode, children=options.children, watch=options.watch)
    if options.command == "top":
        from greenkit.cli._top import top

        return top(options)
    if options.command == "plan":
        from greenkit.cli._plan import plan

        return plan(options)
    if options.command == "explain":
        from greenkit.cli._explain import explain

        return explain(options.ids)
    from greenkit.cli._doctor import diagnose

    return diagnose(options, program)


def _parser() -> argparse.ArgumentParser:
    # Late: `greenkit celery` needs no parser, Celery has its own.
    import argparse

    parser = argparse.ArgumentParser(
        prog="greenkit", description="Run Python programs patched by gevent, and prove that it worked."
    )
    parser.add_argument("--version", action="version", version=f"greenkit {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="patch this process, then run a Python program in it")
    modes = run.add_mutually_exclusive_group()
    for mode, text in (
        ("strict", "refuse to start when the patch left errors"),
        ("repair", "bind stale names again where it is safe"),
    ):
        modes.add_argument(f"--{mode}", dest="mode", action="store_const", const=mode, default="", help=text)
    run.add_argument(
        "--children", action="store_true", help="also patch the Python programs that PROGRAM starts"
    )
    run.add_argument(
        "--watch", metavar="100ms", default="", help="report whoever stops the hub for longer than this"
    )
    run.add_argument(
        "program",
        nargs=argparse.REMAINDER,
        metavar="-- PROGRAM …",
        help='a script, "-m module", "python script.py", or a Python command on the PATH',
    )
    commands.add_parser("alive", help="say whether the hub of each process still turns; for probes")
    commands.add_parser("celery", help="run Celery patched, with the gevent pool unless you name one")
    _add_doctor(commands)
    top = commands.add_parser("top", help="show what the patched processes of this host do, live")
    top.add_argument("directory", nargs="?", default="", metavar="DIRECTORY",
                     help="where they meet: GREENKIT_METRICS_DIR, or that of --port")  # fmt: skip
    top.add_argument("--port", type=int, default=9808, help="their port (9808)")
    top.add_argument("--every", type=float, default=1.0, metavar="SECONDS", help="between two looks (1)")
    top.add_argument("--once", action="store_true", help="print one look and leave")
    top.add_argument("--json", action="store_true", help="with --once: print one JSON object")
    # Late: arithmetic that only the command line needs.
    from greenkit.cli._plan import add_plan

    add_plan(commands)
    explain = commands.add_parser("explain", help="print what the pages say of a finding, such as GK101")
    explain.add_argument("ids", nargs="+", metavar="GK101")
    return parser


def _add_doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="say what is not cooperative, and why",
        usage="greenkit doctor [options] [TARGET | -- COMMAND …]",
        description="Import TARGET in a patched process, or run COMMAND as it is, and say what is not"
        " cooperative. Status 0: nothing found; 1: warnings or errors; 2: it could not look.",
    )
    doctor.add_argument(
        "target", nargs="?", default="", metavar="TARGET", help="proj.celery:app, or script.py"
    )
    for name, metavar, kind, text in (
        ("baseline", "FILE", str, "leave out the findings this file accepts"),
        ("timeout", "SECONDS", float, "end the program, or the import of TARGET, after this long"),
        ("stall", "SECONDS", float, "end the program when its hub stands still for this long (3; 0: never)"),
        ("dsn", "DSN", str, "with --probe: a Postgres to send a query to"),
    ):
        doctor.add_argument(f"--{name}", metavar=metavar, type=kind, help=text)
    for name, text in (
        ("all", "print everything, not only what is most certain"),
        ("json", "print one JSON object"),
        ("write-baseline", "have the file of --baseline accept everything found now"),
        ("probe", "call the suspect functions and measure whom they stop"),
        ("fix", "print a patch for the script TARGET that makes the import of greenkit.auto its line 1"),
        ("write", "with --fix: change the file"),
    ):
        doctor.add_argument(f"--{name}", action="store_true", help=text)
