"""Leave the findings behind while the program runs: at once, and again whenever more is seen.

A program that hangs or is killed cannot be asked any more, so each new finding is written when it is
made, the ones of the watchdog out of its native thread. Nothing here may use what gevent patches.
"""

from __future__ import annotations

import atexit
import os
import sys
from dataclasses import replace

from greenkit import facts, watchdog
from greenkit.doctor import _files
from greenkit.doctor._blocked import about_block, about_collection, about_startup, explains, is_startup
from greenkit.doctor._collect import collect, collect_again
from greenkit.doctor._diagnosis import Diagnosis, to_json
from greenkit.doctor._loops import watch_loops
from greenkit.findings import Finding, Severity

__all__ = ["begin", "first_look", "watch"]

_THRESHOLD = 0.1
_OWN = os.path.dirname(__file__) + os.sep  # noqa: PTH120 - pathlib loads more


class _Reporter:
    """Keep what was found, by what it is about, and write it out after each change."""

    def __init__(self) -> None:
        self.static: list[Finding] = []
        self.running: dict[tuple[tuple[str, ...], str], Finding] = {}
        self.seen = Diagnosis()
        self.watching = False
        self.blocks: dict[float, tuple[tuple[str, ...], str]] = {}
        self.longest: dict[str, float] = {}

    def scan(self, *, anew: bool = True, final: bool = False) -> None:
        """Look at the process again; what was seen running stays.

        Args:
            anew: Also when it can hardly have changed since somebody looked.
            final: The program has ended.
        """
        with watchdog.expected():  # our own look is no fault of the program
            self.seen = collect() if anew else collect_again(final=final)
        shown = {_subject(one) for one in self.running.values()}
        self.static = [one for one in self.seen.findings if _subject(one) not in shown]
        self.write()

    def watch(self) -> None:
        """Have the watchdog and asyncio tell what a look at the process cannot."""
        if self.watching:
            return
        self.watching = True
        atexit.register(self.scan, anew=False, final=True)
        # Patched or not: a hub that runs can stand still.
        dog = watchdog.running() or watchdog.start(_THRESHOLD)
        dog.observe(self.blocked)
        facts.subscribe(self.ended)
        watch_loops(self.add)

    def ended(self, fact: object) -> None:
        """Take how long a block has lasted, now that it is over."""
        if isinstance(fact, facts.HubBlocked) and fact.where:
            self.blocked(fact)

    def blocked(self, block: facts.HubBlocked) -> None:
        """Take what the watchdog saw; while the block lasts, called in its native thread."""
        if block.where.startswith(_OWN):  # our own look, where the program waits for us
            return
        if is_startup(block):
            self.tell_longest(block, about_startup(block))
            return
        if block.call == facts.COLLECTOR:
            self.tell_longest(block, about_collection(block))
            return
        known = next((at for at, one in enumerate(self.static) if explains(one, block)), None)
        if known is None:
            found = about_block(block)
            # What was told of this block before: one block is one finding.
            self.running.pop(self.blocks.pop(block.since, ((), "")), None)
            self.blocks[block.since] = _subject(found), found.captured_at
            self.add(found)
            return
        one = self.static[known]
        if not any(line.startswith("seen: ") for line in one.evidence):
            seen = f"seen: the hub stood still for {block.seconds:.2f} s in {block.where}"
            self.static[known] = one._replace(severity=Severity.ERROR, evidence=(*one.evidence, seen))
            self.write()

    def tell_longest(self, block: facts.HubBlocked, found: Finding) -> None:
        """Keep the longest block of a kind that is no fault of a line: `found` is about this one."""
        # An earlier look at this block may have taken it for a fault.
        self.running.pop(self.blocks.pop(block.since, ((), "")), None)
        if block.seconds > self.longest.get(found.rule, 0.0):
            self.longest[found.rule] = block.seconds
            self.running[_subject(found), ""] = found
            self.write()

    def add(self, one: Finding) -> None:
        """Take a finding made while the program ran; it replaces what a look could only guess."""
        subject = _subject(one)
        before = self.running.get((subject, one.captured_at))
        if before is not None and before.severity is not Severity.INFO and one.severity is Severity.INFO:
            return
        self.static = [other for other in self.static if _subject(other) != subject]
        self.running[subject, one.captured_at] = one
        self.write()

    def write(self) -> None:
        """Write all findings to the file named by `GREENKIT_REPORT`, in one move."""
        diagnosis = replace(self.seen, findings=(*self.static, *self.running.values()))
        path = os.environ.get("GREENKIT_REPORT", "")
        if not path:
            # Late: an observed program, which has a path, does without.
            from greenkit.doctor._render import to_text

            sys.stderr.write(to_text(diagnosis) + "\n")
            return
        _files.write_report(path, to_json(diagnosis) + "\n")


_reporter = _Reporter()


def begin() -> None:
    """Do what `greenkit.doctor.report()` says."""
    _reporter.watch()
    # The doctor's observer looks by itself, and a look at the moment of the patch is one too many.
    if not os.environ.get("GREENKIT_OBSERVE"):
        _reporter.scan()


def watch() -> None:
    """Do what `greenkit.doctor._report.watch()` says."""
    _reporter.watch()


def first_look() -> None:
    """Do what `greenkit.doctor._report.first_look()` says."""
    _reporter.scan(anew=False)


def _subject(one: Finding) -> tuple[str, ...]:
    # What a look guesses and what a run shows differ in the line and in the words, not in these.
    return one.id, one.rule, one.holder, one.attribute, "" if one.rule else one.message
