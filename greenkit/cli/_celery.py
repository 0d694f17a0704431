"""`greenkit celery`: patch, then run the `celery` command.

Imports nothing of Celery before the patch, whatever pool is named.
"""

from __future__ import annotations

import os

from greenkit.boot import decide
from greenkit.cli._ready import complain, patch_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["run_celery", "with_pool"]


def run_celery(arguments: Sequence[str]) -> int:
    """Run `celery` with `arguments`; a worker gets the gevent pool unless a pool is named.

    A worker with another pool, and every other command, runs unpatched.
    """
    patch_for(["celery", *with_pool(arguments)])
    try:
        # Late: import Celery after the patch only.
        from celery.__main__ import main
    except ImportError as error:
        return complain(f"{error}; install it with: pip install 'greenkit[celery]'")
    main()
    return 0


def with_pool(arguments: Sequence[str]) -> list[str]:
    """Return `arguments` with `--pool=gevent` after `worker`, unless a pool is named already."""
    words = list(arguments)
    decision = decide(["celery", *words], os.environ)
    if decision.worker and not decision.pool:
        words.insert(decision.command_at + 1, "--pool=gevent")
    return words
