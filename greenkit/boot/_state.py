"""Findings about the patch itself: half done, undone, done twice, at a wrong place, or bypassed.

`_proof` has the facts; here they are explained, with source read. Imported late, by `evidence()`.
"""

from __future__ import annotations

import sys

from greenkit.boot._blame import early_modules, imported_at, importers
from greenkit.boot._places import bound_at
from greenkit.boot._plan import EFFECTS
from greenkit.boot._plugins import plugin_at
from greenkit.boot._proof import clones, lazy_frame, missing_steps, options_off, undone
from greenkit.boot._record import RECORD, NativeThread
from greenkit.boot._remedy import debugger_remedy, remedy
from greenkit.boot._search import call_text, patch_calls, patched_at, thread_started_at, who_restores
from greenkit.boot._shown import called, is_library, shown
from greenkit.findings import Finding, Severity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from greenkit.boot._record import PatchCall

__all__ = ["state_findings"]

_RESTORES = "Look for a mock or a library that saves and restores it around the patch."
_ALL = "Call patch_all() without arguments, once, or let greenkit.boot.patch() do it."


def state_findings() -> Iterator[Finding]:
    """Yield what is wrong with the patch of this process.

    Switches: never.
    """
    yield from _half_patched()
    yield from _undone()
    yield from _calls()
    yield from (_clone(*one) for one in clones())
    yield from _early()
    yield from (_thread(one) for one in RECORD.native_threads)
    for text in RECORD.warnings:
        brought = imported_at("ssl")
        # A plugin of the celery command ran before the line that asked for the patch, which is not to blame.
        where = brought if plugin_at(brought.rpartition(":")[0]) else RECORD.by
        hint = remedy(brought)
        yield Finding("GK108", Severity.WARNING, f"gevent says: {text}", hint=hint, where=where)


def _half_patched() -> Iterator[Finding]:
    for step in missing_steps():
        module = step.modules[0]
        effect = EFFECTS.get((module, step.proof))
        call = next((one for one in patch_calls() if one.settings.get(step.name) is False), None)
        attribute = f"patch_all({step.name}=False)" if call else f"{module}.{step.proof}"
        yield Finding(
            "GK105",
            Severity.ERROR,
            f"{module}.{step.proof} is not patched although others are; {step.reason}",
            hint=_ALL,
            where=call.place if call else RECORD.by,
            rule="option-off" if call else "half-patched",
            effect=effect.word if effect else "blocks-hub",
            attribute=attribute,
            original=f"{module}.{step.proof}",
            holder=_asker(call),
            captured_at=shown(call.place) if call else "",
            patched_at=patched_at(),
        )


def _asker(call: PatchCall | None) -> str:
    return called(call.frames[0].module) if call is not None and call.frames else ""


def _undone() -> Iterator[Finding]:
    for module, attribute in undone():
        effect = EFFECTS[module, attribute]
        place, caller = who_restores(module, attribute)
        yield Finding(
            "GK106",
            Severity.ERROR,
            f"{module}.{attribute} was put back after the patch and {effect.text}",
            hint=debugger_remedy() if "pydevd" in sys.modules else _RESTORES,
            where=place,
            rule="patch-undone",
            effect=effect.word,
            holder=module,
            attribute=attribute,
            original=f"{module}.{attribute}",
            captured_at=shown(place),
            imported_at=shown(caller),
            patched_at=patched_at(),
        )


def _calls() -> Iterator[Finding]:
    calls = patch_calls()
    for at, call in enumerate(calls):
        off = options_off(call)
        if off and at + 1 < len(calls):
            yield _call_finding(
                call,
                ("GK115", "patched-twice", "deadlocks"),
                "patched a part first and the rest later; what was made in between is native",
                hint="Patch everything once, first.",
                attribute=f"patch_all({', '.join(f'{name}=False' for name in off)})",
            )
        if not call.main_thread:
            yield _call_finding(
                call,
                ("GK116", "patched-off-main-thread", "wrong-identity"),
                "patched off the main thread; the main thread is not main_thread() any more",
                hint="Patch in the main thread, before a thread is started.",
            )
        if lazy := lazy_frame(call):
            yield _call_finding(
                call,
                ("GK117", "patch-inside-import", "hangs"),
                f"patched while {lazy} was being evaluated; without greenkit's guard the process would hang",
                hint="Patch on line 1 of manage.py and of the WSGI module.",
            )


def _call_finding(
    call: PatchCall, kind: tuple[str, str, str], text: str, *, hint: str, attribute: str = ""
) -> Finding:
    finding_id, rule, effect = kind
    return Finding(
        finding_id,
        Severity.WARNING,
        f"{call.place or 'somebody'} {text}",
        hint=hint,
        where=call.place,
        rule=rule,
        effect=effect,
        attribute=attribute or call_text(call, "patch_all"),
        holder=_asker(call),
        captured_at=shown(call.place),
        patched_at=patched_at(),
    )


def _clone(holder: str, attribute: str, name: str) -> Finding:
    place = bound_at(holder, attribute)
    return Finding(
        "GK118",
        Severity.INFO if is_library(holder) else Severity.ERROR,
        f"{holder}.{attribute} is a private copy of {name}, which the patch does not reach; its waits stop"
        " every greenlet",
        hint=f"Use the module in sys.modules: import {name}.",
        where=place,
        rule="module-clone",
        effect="blocks-hub",
        holder=called(holder),
        attribute=attribute,
        original=name,
        form="module global",
        captured_at=shown(place),
        imported_at=imported_at(holder),
        patched_at=patched_at(),
    )


def _early() -> Iterator[Finding]:
    if RECORD.early:
        chain = tuple(
            f"{one.name}: {' > '.join(importers(one.name)) or 'importer unknown'}" for one in early_modules()
        )
        yield Finding(
            "GK102",
            Severity.INFO,
            f"{len(chain)} patchable modules were imported before the patch: {', '.join(RECORD.early)}",
            hint=remedy(next(filter(None, (one.importer for one in early_modules())), "")),
            where=RECORD.by,
            evidence=chain,
            rule="early-import",
        )


def _thread(thread: NativeThread) -> Finding:
    place = thread_started_at(thread.module, thread.function)
    return Finding(
        "GK107",
        Severity.WARNING,
        f"the native thread {thread.name!r} ran during the patch; gevent then leaves the existing locks"
        " as they are, and a greenlet that waits for it waits for ever",
        hint="Patch before anything starts a thread.",
        where=place or RECORD.by,
        rule="native-thread",
        effect="deadlocks",
        holder=called(thread.module),
        attribute=thread.function,
        original="threading.Thread",
        captured_at=shown(place),
        imported_at=imported_at(thread.module) if thread.module else "",
        patched_at=patched_at(),
    )
