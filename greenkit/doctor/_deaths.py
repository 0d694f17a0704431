"""How a program died, as evidence: the exceptions that patched programs die of, and what they mean.

The exception that ends the main thread is read where the interpreter leaves it (`sys.last_value`), so the
program's `sys.excepthook` stays its own. Those of threads and greenlets are noted on their way to the
hook that prints them. Loads nothing gevent patches.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

from greenkit import boot
from greenkit.doctor._secrets import without_secrets
from greenkit.findings import Finding, Severity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType
    from typing import Any

__all__ = ["Deaths", "of_status"]

_LONGEST = 12


class _Cause(NamedTuple):
    """Recognise one exception, and say what it means in a patched process.

    Attributes:
        kinds: Names of exception classes.
        says: The exception's text holds one of these; () for any.
        passes: A frame of the traceback is in a file that ends so; "" for any.
        id: Id of the finding.
        rule: Its rule.
        effect: Its effect.
        holder: The module it is about; "" for the one that was called.
        original: What it is about: `ssl.SSLContext`.
        means: A clause that says what happened.
        hint: What to do; `{entry}` stands for the file whose first line should patch.
    """

    kinds: tuple[str, ...]
    says: tuple[str, ...]
    passes: str
    id: str
    rule: str
    effect: str
    holder: str
    original: str
    means: str
    hint: str


_FIRST_LINE = 'Make "import greenkit.auto" line 1 of {entry}, or start it with "greenkit run -- …".'
_EARLIER = (
    'Patch before ssl is imported: make "import greenkit.auto" line 1 of {entry}, or start it with'
    ' "greenkit run --children -- …".'
)
_CAUSES = (
    _Cause(
        ("LoopExit",),
        (),
        "",
        "GK129",
        "loop-exit",
        "hangs",
        "",
        "",
        "waits for what no greenlet, timer or socket of this process will bring",
        "Look at the line: what it waits for is set by nobody any more, or only from a native thread;"
        " wake it through gevent (threadpool, hub.loop.async_()).",
    ),
    _Cause(
        ("BlockingIOError",),
        (),
        "multiprocessing/connection.py",
        "GK124",
        "multiprocessing",
        "crashes",
        "multiprocessing.connection",
        "",
        "waits on a multiprocessing connection, which the patch has made non-blocking",
        "Use a subprocess, a Celery queue with a prefork worker, or gevent's thread pool in place of"
        " multiprocessing.",
    ),
    _Cause(
        ("RuntimeError", "SynchronousOnlyOperation"),
        (
            "cannot be called from a running event loop",
            "Cannot run the event loop while another loop is running",
            "You cannot use AsyncToSync in the same thread as an async event loop",
            "You cannot call this from an async context",
        ),
        "",
        "GK123",
        "foreign-loop",
        "crashes",
        "asyncio",
        "",
        "asks for an asyncio loop while another greenlet of this thread runs one",
        "Patch with import greenkit.auto, which gives each greenlet a loop of its own, or run each loop in a"
        " native thread: greenkit.offload(asyncio.run, main()).",
    ),
    _Cause(
        ("AttributeError",),
        ("module 'select' has no attribute",),
        "",
        "GK123",
        "foreign-loop",
        "crashes",
        "",
        "select.epoll",
        "needs select.epoll, which the patch takes away",
        "An event loop of its own does not run in a patched process: run it in another process that is"
        " not patched, started with subprocess.",
    ),
    _Cause(
        ("RecursionError",),
        (),
        "/ssl.py",
        "GK101",
        "stale-reference",
        "crashes",
        "",
        "ssl.SSLContext",
        "uses an SSLContext class from before the patch, whose properties call themselves",
        _EARLIER,
    ),
    _Cause(
        ("TypeError",),
        ("super(type, obj)",),
        "/ssl.py",
        "GK113",
        "native-instance",
        "crashes",
        "",
        "ssl.SSLContext",
        "uses an SSLContext made before the patch",
        _EARLIER,
    ),
    _Cause(
        ("DatabaseError",),
        ("can only be used in that same thread",),
        "",
        "GK112",
        "native-local",
        "leaks-state",
        "django.db",
        "_thread._local",
        "uses a database connection of another greenlet: Django's connections were made before the patch",
        _FIRST_LINE,
    ),
    _Cause(
        ("error", "InvalidThreadUseError"),
        ("different thread", "across threads"),
        "",
        "GK129",
        "other-thread",
        "crashes",
        "",
        "",
        "switches to a greenlet of another native thread",
        "Do not hand what waits with gevent to a native thread; pass results through"
        " gevent.get_hub().threadpool.",
    ),
)


class Deaths:
    """Collect the exceptions that end threads, greenlets and the program."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Finding] = {}

    def __len__(self) -> int:
        return len(self._found)

    def watch(self) -> None:
        """Note what threads and greenlets die of, from now on.

        Switches: never.
        """
        boot.on_import("threading", self._watch_threads)
        boot.on_import("gevent.hub", self._watch_greenlets)

    def _watch_threads(self) -> None:
        threading: Any = sys.modules["threading"]
        hook = threading.excepthook

        def excepthook(args: Any) -> object:
            self._note(args.exc_value, args.exc_traceback)
            return hook(args)

        threading.excepthook = threading.__excepthook__ = excepthook

    def _watch_greenlets(self) -> None:
        hub: Any = sys.modules["gevent.hub"].Hub
        handle = hub.handle_error

        def handle_error(self_: Any, context: Any, kind: Any, value: Any, tb: Any) -> object:
            self._note(value, tb)
            return handle(self_, context, kind, value, tb)

        hub.handle_error = handle_error

    def _note(self, error: object, trace: TracebackType | None) -> None:
        """Keep what is in the table; what else a thread or a greenlet dies of is the program's own."""
        if not isinstance(error, BaseException):
            return
        found = _recognised(error, _frames(trace or error.__traceback__))
        if found is not None:
            self._found.setdefault((found.id, found.captured_at), found)

    def findings(self, *, final: bool = False) -> tuple[Finding, ...]:
        """Return what was noted, at the end with what ended the program.

        Switches: never.
        """
        error = getattr(sys, "last_value", None)
        if not final or not isinstance(error, Exception) or not boot.patched():
            return tuple(self._found.values())
        frames = _frames(error.__traceback__)
        last = _recognised(error, frames) or _unknown(error, frames)
        # Both ends of one connection die, and the one in a library's thread says less.
        others = (
            found
            for found in self._found.values()
            if (found.id, found.rule) != (last.id, last.rule)
            or (found.captured_at != last.captured_at and boot.is_users_file(found.where.rpartition(":")[0]))
        )
        return (last, *others)


def of_status(ended: str) -> Finding:
    """Return the finding about a patched program that did not end well, when nothing says why.

    Args:
        ended: How it ended, as a clause.

    Switches: never.
    """
    return Finding(
        "GK129",
        Severity.WARNING,
        f"the patched program {ended}, and nothing that was seen says why",
        hint="Look at what it printed; then run it unpatched to see whether the patch has a part in it.",
        rule="died",
    )


def _frames(trace: TracebackType | None) -> list[tuple[str, int, str, str]]:
    """Return (file, line, function, module) of a traceback, the innermost first."""
    frames = []
    while trace is not None:
        code = trace.tb_frame.f_code
        module = str(trace.tb_frame.f_globals.get("__name__", ""))
        frames.append((code.co_filename, trace.tb_lineno, code.co_name, module))
        trace = trace.tb_next
    return frames[::-1]


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in seen:
        seen.append(at)
        yield at
        at = at.__cause__ or at.__context__


def _recognised(error: BaseException, frames: Sequence[tuple[str, int, str, str]]) -> Finding | None:
    for link in _chain(error):
        inner = _frames(link.__traceback__) or frames
        for cause in _CAUSES:
            if _matches(cause, link, inner):
                # The whole way down: what is raised from another is caught far from the user's line.
                return _finding(cause, link, [*inner, *(one for one in frames if one not in inner)])
    return None


def _matches(cause: _Cause, error: BaseException, frames: Sequence[tuple[str, int, str, str]]) -> bool:
    if not any(kind.__name__ in cause.kinds for kind in type(error).__mro__):
        return False
    try:
        text = str(error)
    except Exception:  # a foreign exception: its text is the program's code
        return False
    said = not cause.says or any(part in text for part in cause.says)
    return said and any(file.endswith(cause.passes) for file, *_ in frames)


def _finding(cause: _Cause, error: BaseException, frames: Sequence[tuple[str, int, str, str]]) -> Finding:
    file, line, function, module = _place(frames)
    kind, place = type(error).__name__, boot.shown(f"{file}:{line}")
    below = next((one[3] for one in frames if not _is_standard(one[3])), module)
    holder = cause.holder or boot.called(module if cause.rule in {"loop-exit", "other-thread"} else below)
    return Finding(
        cause.id,
        Severity.ERROR,
        f"died of {kind} at {place}: it {cause.means}",
        hint=cause.hint.replace("{entry}", boot.entry_file()),
        where=f"{file}:{line}",
        evidence=(*_running_loop(cause), *_stack(frames)),
        rule=cause.rule,
        effect=cause.effect,
        holder=holder,
        attribute=function,
        original=cause.original,
        captured_at=place,
    )


def _running_loop(cause: _Cause) -> tuple[str, ...]:
    loops = sys.modules.get("greenkit.doctor._loops") if cause.holder == "asyncio" else None
    place = loops.running_at() if loops is not None else ""
    return (f"the other loop runs since {boot.shown(place)}",) if place else ()


def _unknown(error: BaseException, frames: Sequence[tuple[str, int, str, str]]) -> Finding:
    file, line, function, module = _place(frames)
    try:
        text = without_secrets(str(error)).partition("\n")[0]
    except Exception:  # a foreign exception: its text is the program's code
        text = "(its text cannot be read)"
    said = f"{type(error).__name__}: {text[:160]}" if text else type(error).__name__
    return Finding(
        "GK129",
        Severity.WARNING,
        f"the patched program ended with {said}",
        hint="Run it unpatched to see whether the patch has a part in it.",
        where=f"{file}:{line}",
        evidence=_stack(frames),
        rule="died",
        holder=boot.called(module),
        attribute=function,
        captured_at=boot.shown(f"{file}:{line}"),
    )


def _place(frames: Sequence[tuple[str, int, str, str]]) -> tuple[str, int, str, str]:
    # gevent's compiled modules name files of its source tree, which are nobody's here.
    users = (one for one in frames if boot.is_users_file(one[0]) and not one[3].startswith("gevent."))
    return next(users, frames[0] if frames else ("", 0, "", ""))


def _is_standard(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names - {"__main__"} or module.startswith("gevent.")


def _stack(frames: Sequence[tuple[str, int, str, str]]) -> tuple[str, ...]:
    lines = [f"{boot.shown(file)}:{line} {function}" for file, line, function, _ in frames]
    # A recursion is a thousand frames of two lines.
    return tuple(dict.fromkeys(lines))[:_LONGEST]
