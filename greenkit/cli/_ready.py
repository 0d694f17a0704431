"""Set the program's command line, then patch as it requires."""

from __future__ import annotations

import os
import sys

from greenkit.errors import GreenkitError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from greenkit.boot import Decision

__all__ = ["complain", "patch_for"]


def patch_for(argv: Sequence[str], *, mode: str = "") -> Decision:
    """Make `argv` the command line of this process and patch as `greenkit.auto` decides.

    Args:
        argv: The new `sys.argv`.
        mode: Value for `GREENKIT`, which child processes inherit; "" leaves it as it is.

    Raises:
        SystemExit: With code 2, when the patch is refused.
    """
    sys.argv[:] = argv
    # sys.orig_argv still is "greenkit run …"; greenkit.auto decides by it.
    sys.orig_argv[:] = [sys.executable, *argv]
    if mode:
        os.environ["GREENKIT"] = mode
    try:
        # Late: importing it is what patches.
        import greenkit.auto
    except GreenkitError as error:
        raise SystemExit(complain(error)) from error
    return greenkit.auto.decision


def complain(problem: object) -> int:
    """Print `problem` as one line on standard error and return the exit code 2."""
    print(f"greenkit: {problem}", file=sys.stderr)
    return 2
