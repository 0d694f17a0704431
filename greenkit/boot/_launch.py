"""Whether this process should be patched, decided from its command line.

Pure: a command line and an environment in, a `Decision` out. Celery's own look at argv knows two
spellings; its option parser (click) knows more, and a worker whose pool is gevent's but whose
process is not patched takes tasks and never runs them. Reads what click would read.
"""

from __future__ import annotations

from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

__all__ = ["Decision", "decide", "what_runs"]

# Options that take a value (celery 5.7, `celery/bin/celery.py` and `celery/bin/worker.py`):
# their value is not a sub-command, and a cluster of short options ends at one.
_GLOBAL_SHORT = "Ab"
_GLOBAL_LONG = ("--app", "--broker", "--result-backend", "--loader", "--config", "--workdir")
_WORKER_SHORT = "nSlOcPQXIs"
_WORKER_FLAGS = frozenset({
    "--detach", "--disable-prefetch", "--task-events", "--events", "--purge", "--discard",
    "--without-gossip", "--without-mingle", "--without-heartbeat", "--beat", "--help",
})  # fmt: skip
# Programs that run their own event loop in the process.
_NEVER = dict.fromkeys(
    ("daphne", "flower", "granian", "hypercorn", "ipykernel_launcher", "jupyter", "uvicorn"),
    "an asyncio server",
)
# Modules of servers that are loaded before the application they serve.
_NEVER_IN = {
    "gunicorn.workers.gthread": "gunicorn's gthread worker never answers when it is patched",
    "gunicorn.workers.gtornado": "gunicorn's worker is an asyncio server",
    "uvicorn": "uvicorn is an asyncio server",
}
# gunicorn's worker classes that have an event loop of their own, by a part of their dotted names.
_ASYNC_CLASSES = ("uvicorn", "tornado", "aiohttp", "asgi", "hypercorn", "daphne")
_STAYS = frozenset({"beat", "flower", "worker"})
_TOO_LATE = (
    "django.db is loaded and its connections belong to native threads;"
    ' make "import greenkit.auto" line 1 of manage.py or the WSGI module'
)


class Decision(NamedTuple):
    """Answer whether to patch a process, and why.

    Attributes:
        patch: Patch it.
        reason: One clause for the log.
        celery: It is a Celery command.
        worker: It is `celery worker`.
        pool: The pool named on the command line or in the environment; "" when neither does
            (then Celery takes `worker_pool` from the configuration, or prefork).
        command_at: Where the sub-command stands among the arguments; -1 when there is none.
        stays: It is a Celery process that runs on; worth a line in its log.
        late: It should have been patched, and now it is too late to.
    """

    patch: bool
    reason: str
    celery: bool = False
    worker: bool = False
    pool: str = ""
    command_at: int = -1
    stays: bool = False
    late: bool = False


def decide(
    argv: Sequence[str],
    environ: Mapping[str, str],
    *,
    orig_argv: Sequence[str] = (),
    loaded: Container[str] = (),
) -> Decision:
    """Return whether the process started as `argv` should be patched.

    Args:
        argv: `sys.argv`: the program, then its arguments.
        environ: `os.environ`.
        orig_argv: `sys.orig_argv`; while `python -m celery` is being located argv says only "-m".
        loaded: `sys.modules`. A Django project imports its Celery app from every process, web
            servers too; by then Django's connections are bound to native threads.

    Switches: never.
    """
    program, arguments = _program(argv, orig_argv)
    if program == "celery":
        return _decide_celery(arguments, environ)
    if program in _NEVER:
        return Decision(patch=False, reason=f"{program} is {_NEVER[program]}")
    for server, reason in _NEVER_IN.items():
        if server in loaded:
            return Decision(patch=False, reason=reason)
    if program == "gunicorn" and (reason := _gunicorn_says_no(arguments, environ)):
        return Decision(patch=False, reason=reason)
    if "django.db" in loaded:
        return Decision(patch=False, reason=_TOO_LATE, late=True)
    return Decision(patch=True, reason="not a Celery process")


def _decide_celery(arguments: Sequence[str], environ: Mapping[str, str]) -> Decision:
    at = _command_at(arguments)
    command = arguments[at] if at >= 0 else ""
    if command != "worker":
        reason = f"celery {command or '(no command)'} runs no tasks"
        return Decision(patch=False, reason=reason, celery=True, stays=command in _STAYS)
    pool = _pool_option(arguments[at + 1 :]) or environ.get("CELERY_WORKER_POOL", "")
    green = pool == "gevent" or (pool == "custom" and _is_green(environ.get("CELERY_CUSTOM_WORKER_POOL", "")))
    named = pool or "not named, so prefork or the configuration's"
    return Decision(
        patch=green,
        reason=f"the worker's pool is {named}",
        celery=True,
        worker=True,
        pool=pool,
        command_at=at,
        stays=True,
    )


def _gunicorn_says_no(arguments: Sequence[str], environ: Mapping[str, str]) -> str:
    """Return why gunicorn's worker must not be patched, or ""; its configuration is not known yet."""
    words = [*environ.get("GUNICORN_CMD_ARGS", "").split(), *arguments]
    kind = _last_value(words, "-k", "--worker-class")
    if any(part in kind for part in _ASYNC_CLASSES):
        return f"gunicorn's worker {kind} is an asyncio server"
    threads = _last_value(words, "", "--threads")
    if kind == "gthread" or (kind in {"", "sync"} and threads.isdigit() and int(threads) > 1):
        return _NEVER_IN["gunicorn.workers.gthread"]
    return ""


def _last_value(words: Sequence[str], short: str, long: str) -> str:
    """Return what argparse would read for an option; the last one wins."""
    value = ""
    for at, word in enumerate(words):
        name, joined, rest = word.partition("=")
        if name == long and joined:
            value = rest
        elif word in {short, long} and word:
            value = words[at + 1] if at + 1 < len(words) else ""
        elif short and word.startswith(short) and not word.startswith("--"):
            value = word[len(short) :]
    return value


def _is_green(dotted: str) -> bool:
    return "gevent" in dotted or dotted.startswith("greenkit.")


def _program(argv: Sequence[str], orig_argv: Sequence[str]) -> tuple[str, Sequence[str]]:
    if not argv:
        return "", ()
    if argv[0] == "-m":
        return what_runs(argv, orig_argv).partition(".")[0], argv[1:]
    head, _, tail = argv[0].replace("\\", "/").rpartition("/")
    name = head.rpartition("/")[2] if tail == "__main__.py" else tail
    for ending in (".exe", "-script.py", "-script.pyw"):
        name = name.removesuffix(ending)
    return name, argv[1:]


def what_runs(argv: Sequence[str], orig_argv: Sequence[str]) -> str:
    """Return the script, the module of `-m` or the code of `-c`, while Python still starts up.

    Until the module is found `sys.argv` says only "-m"; the word is the one before its arguments.

    Switches: never.
    """
    if not argv or argv[0] not in {"-m", "-c"}:
        return argv[0] if argv else ""
    at = len(orig_argv) - len(argv)
    word = orig_argv[at] if 0 < at < len(orig_argv) else ""
    # Joined to its option, behind others or not: "-mcelery", "-Imcelery".
    return word.partition(argv[0][1])[2] if word.startswith("-") else word


def _command_at(arguments: Sequence[str]) -> int:
    """Return where the sub-command stands, -1 when there is none."""
    skip = False
    for at, word in enumerate(arguments):
        if skip:
            skip = False
        elif word.startswith("--"):
            skip = word in _GLOBAL_LONG
        elif word.startswith("-"):
            skip = word[-1] in _GLOBAL_SHORT and not any(c in _GLOBAL_SHORT for c in word[1:-1])
        else:
            return at
    return -1


def _pool_option(arguments: Sequence[str]) -> str:
    """Return the pool as click would read it: joined, clustered, `=`; the last one wins."""
    pool = ""
    words = iter(arguments)
    for word in words:
        if word == "--":
            break
        if word.startswith("--"):
            name, has_value, value = word.partition("=")
            if not has_value and name not in _WORKER_FLAGS:
                value = next(words, "")
            if name == "--pool":
                pool = value
        elif word.startswith("-"):
            at = next((i for i, letter in enumerate(word) if i and letter in _WORKER_SHORT), 0)
            if at:
                value = word[at + 1 :] or next(words, "")
                pool = value if word[at] == "P" else pool
    return pool
