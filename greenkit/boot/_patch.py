"""Patch the process, once.

Order: look at what is loaded, arm the guard, let gevent patch, verify, repair when asked. The
second caller gets the first report. gevent is imported here, inside the function, and nowhere
earlier.
"""

from __future__ import annotations

import os
import sys
from types import FunctionType, ModuleType

from greenkit.boot._events import GUARD, begin, on_did_patch_all, on_will_patch_all
from greenkit.boot._evidence import evidence, findings_about, is_patched
from greenkit.boot._plan import Step, arguments_for
from greenkit.boot._record import RECORD, EarlyModule, PatchReport
from greenkit.boot._scan import SKIP, is_standard, survey
from greenkit.errors import PatchError
from greenkit.findings import Finding, Severity, render

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Literal

__all__ = ["mend", "patch", "patched", "patched_by", "patching", "report"]

_STRICT = ("error", "warn", "off")
# What is loaded when nothing but the patch was imported; the last is setuptools', from its .pth file.
_OURS = SKIP | {"__main__", "cython_runtime", "zope", "_distutils_hack"}


def patch(
    plan: Iterable[Step | str] | None = None,
    *,
    strict: Literal["error", "warn", "off"] | None = None,
    repair: bool = False,
) -> PatchReport:
    """Make the process cooperative, verify it, and return what was seen.

    Only the first call does anything; every later one returns the first report. A process somebody
    else patched (`celery -P gevent`) is verified, and Celery's own stale names are bound again.

    Args:
        plan: Steps to do, by name or from `PLAN`; None for all of them, which is what you want.
        strict: "error" refuses to go on when a finding is an error, "warn" logs the findings
            once, "off" keeps them in the report. None means "warn".
        repair: Bind stale globals and defaults of Celery's family and of your modules again.

    Raises:
        PatchError: gevent's patch failed half-way, or `strict="error"` and there are errors.
        ValueError: An unknown step, or an unknown `strict`.

    Switches: never.
    """
    if strict is not None and strict not in _STRICT:
        msg = f"strict={strict!r} is none of {', '.join(_STRICT)}"
        raise ValueError(msg)
    if RECORD.report is not None:
        return RECORD.report
    arguments = arguments_for(plan)
    if not is_patched():
        _patch_now(arguments)
    found = _search(repair=repair) if repair or not _nobody_was_there() else findings_about((), ())
    if is_patched():
        os.register_at_fork(before=_hear_of_children)
    findings = (*found, *_repairs(RECORD.repaired))
    RECORD.report = PatchReport(
        patched=is_patched(),
        by=RECORD.by,
        early=_early(),
        findings=findings,
        repaired=RECORD.repaired,
        seconds=RECORD.seconds,
    )
    _speak(findings, strict or "warn", asked=repair)
    return RECORD.report


def _hear_of_children() -> None:
    """Have the loop hear of a child that ends before gevent watches it.

    gevent installs its handler of SIGCHLD with the first watcher, after the fork (`fork_and_watch` in
    gevent/os.py). When the first child has ended by then, nobody hears of it, and os.waitpid() never returns.
    """
    from gevent import get_hub

    hub = get_hub()
    if hub.loop.default:  # child watchers belong to the main thread's loop
        hub.loop.install_sigchld()


def _search(*, repair: bool) -> tuple[Finding, ...]:
    # Late: a process that is patched first needs none of it.
    from greenkit.boot._repair import CELERY_FAMILY
    from greenkit.boot._repair import repair as rebind

    seen = survey()
    # gunicorn's reloader subclasses Thread before any application could patch.
    changed = rebind(only=None if repair else CELERY_FAMILY | {"gunicorn"}, seen=seen)
    return findings_about(*(survey() if changed else seen))


def _nobody_was_there() -> bool:
    """Tell whether only the standard library and gevent were loaded before the patch.

    Neither holds anything that matters, so a program patched at its first line need not be searched.
    """
    if RECORD.native_threads or not RECORD.modules:
        return False
    others = {name.partition(".")[0] for name in RECORD.modules if not is_standard(name)}
    if not all(name in _OURS or name.startswith("_cython_") for name in others):
        return False
    main = object.__getattribute__(sys.modules["__main__"], "__dict__")
    return all(name.startswith("__") or _holds_nothing(value) for name, value in main.items())


def _holds_nothing(value: object) -> bool:
    # A console script has taken `sys` and our `main`.
    return type(value) is ModuleType or (
        type(value) is FunctionType and value.__module__.partition(".")[0] in SKIP
    )


def patching() -> bool:
    """Tell whether a patch was announced and is not done: what it has not come to yet looks unpatched.

    Switches: never.
    """
    return RECORD.started is not None and not RECORD.modules


def patched() -> bool:
    """Tell whether this process is patched, by us or by anybody."""
    return is_patched()


def patched_by() -> str:
    """Return `file:line` of whoever asked for the patch, by `patch()` or not; "" when unknown."""
    return RECORD.by


def report() -> PatchReport | None:
    """Return the report of `patch()`, or None when it was never called."""
    return RECORD.report


def _early() -> tuple[EarlyModule, ...]:
    if not RECORD.early:
        return ()
    # Late: it reads source files, which only a process with something to explain pays for.
    from greenkit.boot._blame import early_modules

    return early_modules()


def _patch_now(arguments: dict[str, bool]) -> None:
    begin()
    # Late: only now may anything patchable be loaded. `warnings` comes with it.
    import warnings

    from gevent.monkey import MonkeyPatchWarning

    with GUARD, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        on_will_patch_all(None)  # greenkit may run from a checkout, where gevent finds no entry points
        _have_gevent_patch(arguments)
    if not RECORD.modules:  # see above
        on_did_patch_all(None)
    RECORD.warnings = tuple(
        str(one.message) for one in caught if issubclass(one.category, MonkeyPatchWarning)
    )
    for one in caught:
        if not issubclass(one.category, MonkeyPatchWarning):
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


def _have_gevent_patch(arguments: dict[str, bool]) -> None:
    # Late: see _patch_now.
    from gevent.monkey import patch_all

    try:
        cancelled = patch_all(**arguments) is False
    except Exception as error:
        raise PatchError(
            f"gevent's patch_all() raised {type(error).__name__}: {error}; the process is half"
            f" patched and cannot be mended. Start it again with: greenkit run -- {' '.join(sys.argv)}"
        ) from error
    if cancelled:
        raise PatchError("another plug-in of gevent forbade the patch; the process is not cooperative")


def mend() -> None:
    """Repair right after somebody else's patch (`GREENKIT_REPAIR=1`), and say what was done and what is left.

    Switches: never.
    """
    if RECORD.mending or RECORD.report is not None:
        return
    RECORD.mending = True  # completing a patch announces a patch
    try:
        # Late: see _search.
        from greenkit.boot._repair import repair

        repair()
        _speak((*evidence(), *_repairs(RECORD.repaired)), "warn", asked=True)
    finally:
        RECORD.mending = False


def _repairs(repaired: tuple[str, ...]) -> tuple[Finding, ...]:
    if not repaired:
        return ()
    return (
        Finding(
            "GK109",
            Severity.INFO,
            f"{len(repaired)} names that held an original were bound again",
            hint="Patch earlier and there is nothing to repair: greenkit celery … or greenkit run -- …",
            evidence=repaired,
            rule="repaired",
        ),
    )


def _speak(findings: tuple[Finding, ...], strict: str, *, asked: bool) -> None:
    # A repair nobody asked for (Celery's own names) is in the report, and not worth a line of the log.
    loud = tuple(f for f in findings if f.severity is not Severity.INFO or (asked and f.rule == "repaired"))
    errors = tuple(f for f in loud if f.severity is Severity.ERROR)
    if strict == "error" and errors:
        msg = f"{len(errors)} errors after the patch:\n{render(errors)}"
        raise PatchError(msg, findings=errors)
    if strict == "warn" and loud:
        # Late: logging is one of the modules gevent patches; by now it has.
        import logging

        logging.getLogger("greenkit.boot").warning("after the patch:\n%s", render(loud))
