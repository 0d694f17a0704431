"""Whether a worker, started as it was, can run its tasks; if not, it ends and names the right command.

Celery patches for three spellings of the pool only. With any other, and with a patch that came after
Celery was imported, a worker says "ready", takes tasks and never runs one. Each look is as early as
its answer is known: at `install()`, while the app is being imported, when the command line tells;
at `worker_init` for what only the configuration or the pool's class tells; and once more before the
consumer connects, since a receiver of `worker_init` may have patched after us.
"""

from __future__ import annotations

import os
import shlex
import sys
from typing import TYPE_CHECKING, NoReturn

from greenkit.boot import decide, patched, refuse_mismatches

if TYPE_CHECKING:
    from collections.abc import Callable

    from greenkit.boot import Decision

__all__ = ["look_at_the_command", "look_at_the_process", "refuse"]

_NEVER = "it would receive tasks and never run them"
_UNPATCHED = f"the pool is gevent but the process is not patched: {_NEVER}"
_SEEN = "Celery patches for `-P gevent`, `--pool gevent` and `--pool=gevent` only"


def look_at_the_command() -> None:
    """End this process if its command line starts a worker that would never run a task.

    Does nothing in any other process, so that a web process may import the app.

    Raises:
        SystemExit: It would; the sentence says what to write instead.

    Switches: never.
    """
    decision = _decision()
    if not decision.worker:
        return
    if word := _pool_after_the_dashes():
        refuse(
            f"Celery reads no pool from {word!r}: the worker would be a prefork one. {_start_as(drop=word)}"
        )
    if not patched():
        if decision.patch:
            refuse(f"{_UNPATCHED}. {_why(decision)}. {_start_as()}")
    elif stale := _stale():
        refuse(_late(stale, green=decision.patch))
    refuse_mismatches()  # what the configuration names, as soon as Celery loads that pool


def look_at_the_process(pool: str, *, green: bool, warn: Callable[[str], None] | None = None) -> None:
    """End this process if a worker with this pool would never run a task in it.

    Args:
        pool: What the pool is called.
        green: It runs tasks in greenlets.
        warn: Told the sentence instead, when the user insists.

    Raises:
        SystemExit: As above.

    Switches: never.
    """
    sentence = ""
    if stale := _stale():
        sentence = _late(stale, green=green)
    elif green and not patched():
        sentence = f"{_UNPATCHED}. {_why(_decision())}. {_start_as()}"
    elif "prefork" in pool and patched():
        sentence = (
            f"this process is patched by gevent but its pool is {pool}, whose children cannot be stopped: "
            "start it with -P gevent, or take the patch out (`import greenkit.auto` looks at the pool first)"
        )
    if sentence:
        (warn or refuse)(sentence)


def refuse(sentence: str) -> NoReturn:
    """End this process with the sentence on standard error and status 1."""
    raise SystemExit(f"greenkit: {sentence}")


def _decision() -> Decision:
    return decide(sys.argv, os.environ, orig_argv=sys.orig_argv, loaded=sys.modules)


def _stale() -> list[str]:
    if not patched():
        return []
    from greenkit.celery._upstream import stale_waits  # late: it loads gevent, which a patched process has

    return stale_waits()


def _late(stale: list[str], *, green: bool) -> str:
    pool, remedy = _decision().pool, _start_as()
    if pool == "custom":
        remedy = "Use -P gevent, or CELERY_CUSTOM_WORKER_POOL=greenkit.celery:TaskPool"
    elif not green:
        put = "Put `import greenkit.auto`, which looks at the pool, in the place of that patch"
        remedy = put if pool else f"{put}. {remedy.replace('Start it', 'For a gevent pool, start it')}"
    return (
        f"gevent patched this process after Celery was imported ({', '.join(stale)}): tasks would never "
        f"run, or all stand still whenever the broker is away. {remedy}"
    )


def _why(decision: Decision) -> str:
    """Say what about this command line keeps Celery from patching."""
    if not decision.worker:
        return "`worker_main()` never patches"
    if not decision.pool:
        return "Celery reads `worker_pool` too late to patch"
    if "multi" in sys.argv:
        return "Celery never patches when a word of the command line is `multi`; name the node otherwise"
    if decision.pool == "custom":
        return f"{_SEEN}, not for a custom pool"
    if os.environ.get("CELERY_WORKER_POOL") == decision.pool:
        return f"{_SEEN}, not for the environment variable CELERY_WORKER_POOL"
    return f"{_SEEN}, two words or `=`"


def _start_as(*, drop: str = "") -> str:
    words = [word for word in sys.argv[1:] if word != drop]
    if words and words[-1] == "--":
        words.pop()
    if _decision().worker:
        return f"Start it as: {shlex.join(['greenkit', 'celery', *words])}"
    return (
        f"Make `import greenkit.auto` line 1 of {sys.argv[0]}, or start it as: "
        f"{shlex.join(['greenkit', 'run', '--', *sys.argv])}"
    )


def _pool_after_the_dashes() -> str:
    """Return the word that sets a green pool where Celery reads settings, but not this one."""
    after = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []
    for word in after:
        name, _, value = word.partition("=")
        if name.lower().replace(".", "_") in {"worker_pool", "_pool"} and "gevent" in value:
            return word
    return ""
