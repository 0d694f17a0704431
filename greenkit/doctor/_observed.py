"""The doctor inside a program that is observed: it looks, writes down what it saw, patches nothing.

Runs from `sitecustomize`, before the program's first line, in each of its processes. What it saw is
written whenever there is something new, because a program may hang or be killed at any time: when
the hub first runs after a patch, from a native thread every now and then, when the doctor asks, and
at exit. Everything it needs is imported here and now: a later import would move modules about in
the very order that is looked at.
"""

from __future__ import annotations

import ast  # noqa: F401 - what the evidence imports late, imported before the program starts
import atexit
import os
import sys
import time
import warnings
import weakref
from _thread import allocate_lock, get_ident, get_native_id, start_new_thread
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial

from greenkit import boot
from greenkit.doctor import _files
from greenkit.doctor._collect import collect_again, count_modules
from greenkit.doctor._deaths import Deaths
from greenkit.doctor._diagnosis import Diagnosis, to_json
from greenkit.doctor._report import first_look, watch
from greenkit.doctor._standstill import Standstill, cpu_clock, waits
from greenkit.findings import Finding, Severity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from typing import Any, NoReturn


__all__ = ["ASK", "STALLED", "begin"]

ASK = "ask"
"""The file the doctor makes in the directory when it wants to know now."""

STALLED = "stalled"
"""Ending of the file that says where a process stands still; the doctor takes it and ends the program."""

# Native for good: taken before anything can be patched, used in a native thread only.
_sleep, _now, _leave = time.sleep, time.monotonic, os._exit
_TICK = 0.05
_FIRST = 1.0
"""Seconds until the first look; the hub's first turn and the end look by themselves."""
_SHARE = 20.0
"""What a look costs is at most one part in so many of the time until the next."""
_UNDER_WAY = 2.0
"""Seconds a look waits for a patch or for imports under way; the doctor waits longer for its answer."""
_TOO_EARLY = frozenset({"GK101", "GK111", "GK112", "GK113", "GK114"})


def begin(directory: str) -> None:
    """Observe this process and write what is seen to files in `directory`.

    Switches: never.
    """
    observer = _Observer(directory, float(os.environ.get("GREENKIT_OBSERVE_STALL", "0")))
    # Python 3.12 and later warn of every fork in a process with a second thread, and that one is ours.
    warnings.filterwarnings("ignore", r"This process \(pid=\d+\) is multi-threaded", DeprecationWarning)
    observer.start()
    boot.watch_imports()
    boot.on_import("gevent.events", partial(_when_patched, observer))
    observer.deaths.watch()
    atexit.register(observer.look, final=True)
    os.register_at_fork(after_in_child=observer.start)

    def leave(status: int) -> NoReturn:
        observer.look(final=True)
        _leave(status)

    os._exit = leave


def _when_patched(observer: _Observer) -> None:
    # Late: gevent is being imported by the program, and this is its callback.
    from gevent import events

    def on_event(event: object) -> None:
        if isinstance(event, events.GeventDidPatchAllEvent):
            # Not now, for that would make the hub, and the program's first timers would fire early.
            boot.on_hub(partial(_when_made, observer))

    events.subscribers.append(on_event)


_hub: weakref.ref[Any] | None = None


def _when_made(observer: _Observer, hub: Any) -> None:
    # Late: gevent was imported by the program; see _when_patched().
    from greenlet import greenlet

    global _hub  # noqa: PLW0603 - the thread that patches has one
    _hub = weakref.ref(hub)
    _guarded(watch)  # at once: the program may stand still before the hub's first turn
    # By that turn the program has imported and made what it works with. A greenlet, because a look may wait;
    # entered there and then, because one that is spawned is something that waits for the hub.
    look = partial(_guarded, observer.first_look)
    boot.on_turn(hub, lambda: None if _ends(hub) else greenlet(look, hub).switch())


def _ends(hub: Any) -> bool:
    """Tell whether the interpreter turns the hub because it ends: then the final look is next."""
    frame = hub.parent.gr_frame
    while frame is not None and frame.f_code.co_name != "_shutdown":
        frame = frame.f_back
    return frame is not None


def _guarded(function: Callable[[], None]) -> None:
    try:
        function()
    except Exception as error:
        with suppress(OSError):
            _files.write(f"{os.environ['GREENKIT_REPORT']}.error", repr(error))


def _imported(found: Finding) -> Finding:
    """Return `found` with the import that was seen to bring its holder, where the evidence names none."""
    chain = boot.importers.get(found.holder, ())
    if not chain or found.imported_at or found.severity is Severity.INFO or found.id not in _TOO_EARLY:
        return found
    said = f"{found.holder} was imported by {' > '.join(boot.shown(place) for place in reversed(chain))}"
    users = boot.is_users_file(chain[-1].rpartition(":")[0])
    return found._replace(
        imported_at=boot.shown(chain[-1]) if users else "", evidence=(*found.evidence, said)
    )


def _excused() -> AbstractContextManager[None]:
    """Have the watchdog, when there is one, not take our own look for a fault of the program."""
    watchdog = sys.modules.get("greenkit.watchdog")
    return watchdog.expected() if watchdog is not None else nullcontext()


class _Observer:
    """Look at this process from a native thread of it, and write what is seen."""

    def __init__(self, directory: str, stall: float) -> None:
        self._directory = directory
        self._main = get_ident()
        self._stall = stall
        self._standstill = Standstill(stall)
        self.deaths = Deaths()
        self._seen: tuple[int, ...] = ()
        self._looking = allocate_lock()
        self._waits: tuple[Finding, ...] = ()
        self._path = ""
        self._elsewhere = False  # the main thread looks

    def start(self) -> None:
        """Begin in this process: at its start, and in each child it forks."""
        self._looking = allocate_lock()  # a fork may have copied a held one
        self._main = get_ident()
        self._standstill = Standstill(
            self._stall, used=cpu_clock(self._main), ready=_readiness(get_native_id())
        )
        self._seen, self._waits, self._elsewhere = (), (), False
        self._path = os.path.join(self._directory, f"{os.getpid()}")  # noqa: PTH118
        os.environ["GREENKIT_REPORT"] = f"{self._path}.report.json"
        start_new_thread(self._watch, (os.getpid(),))

    def look(self, *, final: bool = False) -> None:
        """Write what is seen now, if it can have changed or nobody will look again."""
        if not self._looking.acquire(timeout=5.0):
            return
        try:
            # A look in the middle of a patch sees it half done; one module more, and it looks again.
            saved = getattr(sys.modules.get("gevent.monkey"), "saved", ())
            seen = (count_modules(), len(saved), self._standstill.lasts, len(self.deaths), len(self._waits))
            if final or seen != self._seen:
                self._seen = seen
                here = get_ident() == self._main  # then it does not stand still any more
                with _excused():
                    diagnosis = collect_again(" ".join(sys.argv), final=final)
                findings = (
                    *self.deaths.findings(final=final),
                    *map(_imported, diagnosis.findings),
                    *self._standstill.findings(over=here),
                    *self._waits,
                )
                diagnosis = replace(diagnosis, findings=findings)
                _files.write(f"{self._path}.look.json", to_json(diagnosis))
        except Exception as error:
            self._note("error", repr(error))
        finally:
            self._looking.release()

    def first_look(self) -> None:
        """Have the watchdog's reporter look, too; not while the native thread does, which sees the same."""
        if self._looking.acquire(timeout=5.0):
            self._looking.release()  # not held meanwhile: this look may wait, and the final one would for it
        self._elsewhere = True
        try:
            first_look()
        finally:
            self._elsewhere = False

    def _note(self, word: str, text: str) -> None:
        # The doctor goes when the program has ended; a process that stays has nobody to tell.
        with suppress(FileNotFoundError):
            _files.write(f"{self._path}.{word}", text)

    def _watch(self, pid: int) -> None:
        begun, due, ask = _now(), _FIRST, os.path.join(self._directory, ASK)  # noqa: PTH118
        answered = stood = False
        patching, loaded = 0.0, 0
        while os.getpid() == pid:
            _sleep(_TICK)
            if sys.is_finalizing() or not os.path.isdir(self._directory):  # noqa: PTH112
                return
            stands = self._standstill.watch(sys._current_frames().get(self._main), _now())
            asks = not answered and os.path.exists(ask)  # noqa: PTH110
            patching = patching + _TICK if boot.patching() else 0.0
            # What a patch under way has not come to yet would be told as left out.
            if (0 < patching < _UNDER_WAY or self._elsewhere) and not stands:
                continue
            # What a look sees while modules come would have to be looked at again.
            before, loaded = loaded, len(sys.modules)
            if loaded != before and _now() - begun < due + _UNDER_WAY and not asks and not stands:
                continue
            if _now() - begun >= due or asks or stands != stood:
                used = time.thread_time()
                hub = _hub() if asks and _hub is not None else None
                if hub is not None:
                    self._waits = waits(hub)
                # A debugger traces every thread it finds, and a look has many lines.
                sys.settrace(None)
                self.look()
                # Ever more seldom, for what an old process has not shown yet comes late; and the less often
                # the more a look costs.
                due = max((_now() - begun) * 1.6, _now() - begun + _SHARE * (time.thread_time() - used))
            if asks:
                answered = True
                self._note("answered", "")
            if stands and not stood:
                self._note(STALLED, to_json(Diagnosis(findings=self._standstill.findings())))
            elif stood and not stands:
                # It went on. The doctor takes the note before it ends the program: one of us comes first.
                with suppress(FileNotFoundError):
                    os.unlink(f"{self._path}.{STALLED}")  # noqa: PTH108 - pathlib loads more
            stood = stands


def _readiness(thread: int) -> Callable[[], bool]:
    """Return a function that tells whether a native thread is running or ready to run."""
    path = f"/proc/self/task/{thread}/stat"

    def ready() -> bool:
        try:
            # The state follows the name, which may hold anything (proc(5)).
            return _files.read(path).rpartition(") ")[2].startswith("R")
        except OSError:
            return False

    return ready
