"""`greenkit celery`: patch, then be the `celery` command.

The only way in that is always clean: nothing of Celery is imported before the patch, whatever way
the pool is spelled.
"""

from __future__ import annotations

import os
import sys

from greenkit.boot import decide, on_import, patch
from greenkit.errors import GreenkitError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["run_celery", "with_pool"]


def run_celery(arguments: Sequence[str]) -> int:
    """Run `celery` with `arguments`; a worker gets the gevent pool unless a pool is named.

    A worker with another pool, and every other command, runs unpatched.
    """
    sys.argv[:] = ["celery", *with_pool(arguments)]
    decision = decide(sys.argv, os.environ)
    strictness = os.environ.get("GREENKIT", "report")
    try:
        if decision.patch:
            patch(strict="error" if strictness == "strict" else None, repair=strictness == "repair")
            on_import("psycopg2", "greenkit.postgres:install")
        # Late: everything of Celery comes after the patch.
        from celery.__main__ import main
    except GreenkitError as error:
        print(f"greenkit: {error}", file=sys.stderr)  # noqa: T201 - this is a command
        return 2
    except ImportError as error:
        print(f"greenkit: {error}; install it with: pip install 'greenkit[celery]'", file=sys.stderr)  # noqa: T201
        return 2
    main()
    return 0


def with_pool(arguments: Sequence[str]) -> list[str]:
    """Return `arguments` with `--pool=gevent` after `worker`, unless a pool is named already."""
    words = list(arguments)
    decision = decide(["celery", *words], os.environ)
    if decision.worker and not decision.pool:
        words.insert(words.index("worker") + 1, "--pool=gevent")
    return words
