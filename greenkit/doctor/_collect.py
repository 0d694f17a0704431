"""Ask the rooms for their findings and their numbers."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

from greenkit import boot, facts
from greenkit.doctor._diagnosis import Diagnosis, Measured

__all__ = ["collect", "probe", "with_probes"]


def collect(subject: str = "") -> Diagnosis:
    """Return what every room says about this process now.

    Args:
        subject: What the diagnosis will call it.

    Switches: never.
    """
    report = boot.report()
    return Diagnosis(
        findings=boot.evidence(),
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
