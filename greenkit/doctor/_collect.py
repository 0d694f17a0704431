"""Ask the rooms for their findings and their numbers."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

from greenkit import boot, facts
from greenkit.doctor._diagnosis import Diagnosis, Measured

TYPE_CHECKING = False
if TYPE_CHECKING:
    from greenkit.findings import Finding

__all__ = ["collect", "collect_again", "count_modules", "probe", "with_probes"]


def collect(subject: str = "") -> Diagnosis:
    """Return what every room says about this process now.

    Args:
        subject: What the diagnosis will call it.

    Switches: never.
    """
    return _diagnosis(subject, _look())


def collect_again(subject: str = "", *, final: bool = False) -> Diagnosis:
    """Return what `collect()` does, from the last look when no module has come since.

    Under the doctor two look at one process, each more than once, and a look at a large heap is not cheap.

    Args:
        subject: What the diagnosis will call it.
        final: The program has ended: the last look counts if it was a final one.

    Switches: never.
    """
    return _diagnosis(subject, _seen[1] if _seen[0] == _state(final) else _look(final=final))


_seen: tuple[tuple[int, int, bool], tuple[Finding, ...]] = ((0, 0, False), ())


def _look(*, final: bool = False) -> tuple[Finding, ...]:
    global _seen  # noqa: PLW0603 - a process has one heap
    state = _state(final)  # before the look: an import of another thread meanwhile is not in it
    found = boot.evidence()
    _seen = state, found
    return found


def _state(final: bool) -> tuple[int, int, bool]:  # noqa: FBT001
    saved = getattr(sys.modules.get("gevent.monkey"), "saved", ())
    return count_modules(), len(saved), final


def count_modules() -> int:
    """Return how many modules are loaded, without what a look itself loads to explain what it found.

    Switches: never.
    """
    return sum(not name.startswith("greenkit.") for name in list(sys.modules))


def _diagnosis(subject: str, findings: tuple[Finding, ...]) -> Diagnosis:
    report = boot.report()
    return Diagnosis(
        findings=findings,
        patched=boot.patched(),
        by=boot.patched_by(),
        seconds=report.seconds if report else 0.0,
        repaired=report.repaired if report else (),
        live=facts.snapshot(),
        subject=subject,
        processes=({"pid": os.getpid(), "argv": list(sys.argv), "patched": boot.patched()},),
    )


def probe(*, dsn: str = "") -> tuple[Measured, ...]:
    """Call what a green process waits in, on loopback, and measure whom each call stops.

    Takes some two seconds, and uses SIGALRM meanwhile to break off a call that hangs. A call that does
    not cooperate stops this process for as long as it takes, as it does whenever it is made.

    Args:
        dsn: Address of a Postgres server, to measure psycopg2 and psycopg, too.

    Raises:
        GreenkitError: Called outside the main thread.

    Switches: may.
    """
    # Late: it loads all that gevent patches.
    from greenkit.doctor._probe import measure

    return tuple(measure(dsn))


def with_probes(diagnosis: Diagnosis, *, dsn: str = "") -> Diagnosis:
    """Return `diagnosis` of this process with what `probe()` measures and finds (GK110).

    Args:
        diagnosis: Of this process.
        dsn: As for `probe()`.

    Raises:
        GreenkitError: Called outside the main thread.

    Switches: may.
    """
    # Late: see probe().
    from greenkit.doctor._probe import findings_of

    probes = probe(dsn=dsn)
    return replace(diagnosis, probes=probes, findings=(*diagnosis.findings, *findings_of(probes)))
