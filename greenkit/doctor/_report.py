"""The door to the reporter, which loads gevent and so comes late."""

from __future__ import annotations

__all__ = ["first_look", "report", "watch"]


def report() -> None:
    """Write what is wrong with this process to the file named by `GREENKIT_REPORT`, now and from now on.

    Starts the watchdog. Without the variable the findings go to standard error as
    text. A second call looks again.

    Switches: never.
    """
    # Late: this room must load nothing gevent patches, and the watchdog does.
    from greenkit.doctor._reporter import begin

    begin()


def watch() -> None:
    """Have the watchdog and asyncio tell what happens in this process, without a look at it yet.

    Switches: never.
    """
    # Late: see report().
    from greenkit.doctor._reporter import watch

    watch()


def first_look() -> None:
    """Have a process that is watched leave its findings, by a look the doctor has just made if there is one.

    Switches: never.
    """
    # Late: see report().
    from greenkit.doctor._reporter import first_look

    first_look()
