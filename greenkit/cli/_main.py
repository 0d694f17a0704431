"""Read the first words of the command line and hand the rest to a command."""

from __future__ import annotations

import sys

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
        0; 1 when the doctor found errors; 2 for a wrong command line or a program that cannot
        be run. A program started by `run` or `celery` ends the process with its own code.

    Switches: may.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["celery"]:
        # Late, like the other two: a command loads only what it needs.
        from greenkit.cli._celery import run_celery

        return run_celery(words[1:])
    options = _parser().parse_args(words)
    if options.command == "run":
        from greenkit.cli._run import run

        return run(options.program, mode=options.mode, children=options.children, watch=options.watch)
    from greenkit.cli._doctor import diagnose

    return diagnose(options.target, as_json=options.json)


def _parser() -> argparse.ArgumentParser:
    # Late: `greenkit celery` needs no parser, Celery has its own.
    import argparse

    parser = argparse.ArgumentParser(
        prog="greenkit", description="Run Python programs patched by gevent, and prove that it worked."
    )
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
    commands.add_parser("celery", help="run Celery patched, with the gevent pool unless you name one")
    doctor = commands.add_parser("doctor", help="patch, import TARGET, and say what is not cooperative")
    doctor.add_argument("target", nargs="?", default="", metavar="TARGET", help="a module: proj.celery")
    doctor.add_argument("--json", action="store_true", help="print one JSON object")
    return parser
