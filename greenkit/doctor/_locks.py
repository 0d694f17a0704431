"""A hub that stands still in `with lock`, joined with the finding about that lock."""

from __future__ import annotations

import linecache
import os
import re
import sys

from greenkit.findings import Finding, Severity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["joined_with_locks"]

_PLACE = re.compile(r"(?P<file>.+\.py):(?P<line>\d+)\b")
_TAKES = re.compile(r"\bwith\s+(?P<held>[\w.]+)|(?P<taken>[\w.]+)\.acquire\(")


def joined_with_locks(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return `findings`; where one says that the hub stands in `with lock`, that lock is the error.

    Reads the line of source at which the hub stood. A block whose lock nobody knows stays as it is.

    Switches: never.
    """
    kept = list(findings)
    for block in [found for found in kept if found.id == "GK401" and found.severity is Severity.ERROR]:
        place, lock = _lock_of(block)
        at, error = _about(lock, place, kept) if lock else (-1, None)
        if error is None:
            continue
        seen = (f"seen: {block.message}", f"waits for it at {place}", *block.evidence[1:])
        error = error._replace(severity=Severity.ERROR, evidence=(*seen, *error.evidence))
        if at >= 0:
            kept[at] = error
        else:
            kept.append(error)
        kept.remove(block)
    return tuple(kept)


def _lock_of(block: Finding) -> tuple[str, str]:
    """Return (`file:line`, name of the lock) at which a block waits; ("", "") when it is no lock."""
    for line in block.evidence[:3]:
        found = _PLACE.match(line.strip())
        if found is None:
            continue
        source = linecache.getline(_full(found["file"]), int(found["line"]))
        taken = _TAKES.search(source)
        held = (taken["held"] or taken["taken"]) if taken is not None else ""
        return found.group(), held.rpartition(".")[2]
    return "", ""


def _full(file: str) -> str:
    places = (os.path.join(one, file) for one in ["", *sys.path])  # noqa: PTH118
    return next((one for one in places if os.path.isfile(one)), file)  # noqa: PTH113


def _about(lock: str, place: str, findings: list[Finding]) -> tuple[int, Finding | None]:
    """Return (index, finding) of the lock: one of its own, or a new one out of the summary of packages."""
    for at, found in enumerate(findings):
        if found.id != "GK111":
            continue
        if (
            found.holder
            and f".{found.attribute}".endswith(f".{lock}")
            and _is_in(found.evidence, found, place)
        ):
            return at, found
        for line in () if found.holder else found.evidence:
            name, _, home = line.removesuffix(")").partition(" (")
            if name.endswith(f".{lock}") and home.replace(".", "/") in place:
                return -1, _finding(name, home, place, found)
    return -1, None


def _is_in(evidence: tuple[str, ...], found: Finding, place: str) -> bool:
    homes = [line.partition("class of ")[2] for line in evidence if line.startswith("class of ")]
    return any(home.replace(".", "/") in place for home in [*homes, found.holder])


def _finding(name: str, home: str, place: str, summary: Finding) -> Finding:
    module, _, attribute = name.rpartition(".")
    return Finding(
        "GK111",
        Severity.ERROR,
        f"{name} is a _thread.lock from before the patch: a greenlet waits for it, and none can free it",
        hint=f"{summary.hint} Or let greenkit replace it: GREENKIT_REPAIR=1.",
        where=place,
        rule="native-lock",
        effect="deadlocks",
        holder=module,
        attribute=attribute,
        original="_thread.lock",
        captured_at=place,
        evidence=(f"class of {home}",),
    )
