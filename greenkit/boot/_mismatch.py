"""End a process that would start, say "ready" and never do its work.

A pool or a worker class that does not fit the patch is known for certain only when its module is
imported, so that is where we look: before it has taken anything on. `SystemExit`, because Celery
catches `Exception` in several places on the way out.
"""

from __future__ import annotations

import sys

from greenkit.boot._evidence import is_patched
from greenkit.boot._imports import on_import
from greenkit.errors import PatchError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["refuse_mismatches"]

_GREEN = "celery.concurrency.gevent"
_LEAVE_IT = "or leave this process unpatched with GREENKIT=off"

# Tried on celery 5.7 and gunicorn 27.
_CLASHES: dict[str, str] = {
    "celery.concurrency.prefork": (
        "this process is patched by gevent and its pool is prefork: its children never end, so it"
        " could not be stopped. Use -P gevent, " + _LEAVE_IT
    ),
    "gunicorn.workers.gthread": (
        "this process is patched by gevent and gunicorn's worker is gthread: it would accept"
        " connections and never answer. Use -k gevent, " + _LEAVE_IT
    ),
}


def refuse_mismatches() -> None:
    """Watch for the imports that show a pool does not fit, patched or not.

    Switches: never.
    """
    on_import(_GREEN, _needs_the_patch)
    for module, words in _CLASHES.items():
        on_import(module, _clash(words))


def _needs_the_patch() -> None:
    if not is_patched():
        _end(
            "this worker's pool is gevent but the process is not patched; it would take tasks"
            f" and never run them. Start it with: greenkit celery {' '.join(sys.argv[1:])}"
        )


def _clash(words: str) -> Callable[[], None]:
    def check() -> None:
        # Celery loads the pool it was given first; a green worker told `-c auto` goes on to ask which
        # kind it is, and for that loads prefork's too (celery/worker/worker.py, 5.7).
        if is_patched() and _GREEN not in sys.modules:
            _end(words)

    return check


def _end(words: str) -> None:
    raise SystemExit(f"greenkit: {words}") from PatchError(words)
