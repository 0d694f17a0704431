"""Show a diagnosis to a person: the gravest cause first, the verdict and the next step last."""

from __future__ import annotations

import os
import textwrap

from greenkit.doctor import _probes_text
from greenkit.doctor._diagnosis import hidden
from greenkit.doctor._groups import groups
from greenkit.doctor._pages import page_of
from greenkit.doctor._verdict import counts, next_step, seen
from greenkit.findings import Severity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from greenkit.doctor._diagnosis import Diagnosis
    from greenkit.doctor._groups import Group
    from greenkit.findings import Finding

__all__ = ["to_text"]

_PAINT = {Severity.ERROR: "1;31", Severity.WARNING: "1;33", Severity.INFO: "2"}
_MANY = 8
"""Of more things of one cause only this many are listed; the JSON has all."""
_FEW = 3


def to_text(diagnosis: Diagnosis, *, width: int = 100, color: bool = False) -> str:
    """Return `diagnosis` as lines for a terminal; the last one is the verdict and what to do next.

    Args:
        diagnosis: What was seen.
        width: Columns to fill.
        color: Paint severities with ANSI colours.

    Switches: never.
    """
    diagnosis = hidden(diagnosis)
    lines = list(_wrapped(seen(diagnosis), width))
    for group in groups(diagnosis.findings):
        lines += ["", *_group(group, width, color=color)]
    if diagnosis.probes:
        lines += ["", *_probes_text.table(diagnosis.probes)]
    if diagnosis.problem:
        lines += ["", *_wrapped(_paint(f"Could not look: {diagnosis.problem}", "1;31", color=color), width)]
        lines += [f"    {_near(line)}" for line in diagnosis.trace]
    last = [counts(diagnosis), *filter(None, [next_step(diagnosis)])]
    one_line = "  ".join(last)
    # Never wrapped: the end of it is a command to copy.
    return "\n".join([*lines, "", *([one_line] if len(one_line) <= width else last)])


def _group(group: Group, width: int, *, color: bool) -> Iterator[str]:
    first = group.findings[0]
    label = _paint(group.severity.value.upper(), _PAINT[group.severity], color=color)
    ids = ", ".join(group.ids)
    if group.cause:
        count = len(group.findings)
        kept = f"{count} things still hold what" if count > 1 else "one thing still holds what"
        title = f"{_near(group.cause)} imports too early: {kept} the patch replaced."
    else:
        title = first.message if len(group.findings) == 1 else f"{len(group.findings)} times {first.rule}."
    yield from _wrapped(f"{label}  {ids}  {title}", width, then="       ")
    if group.severity is Severity.INFO:
        yield from _evidence(first, width, most=_FEW)
        return
    yield from _members(group, width)
    places = {"imported at": "" if group.cause else first.imported_at, "patched at": first.patched_at}
    for what, place in places.items():
        if place:
            yield f"    {what + ':':<13}{_near(place)}"
    for hint in group.hints[:3]:
        yield from _wrapped(f"    {'fix:':<13}{hint}", width, then=" " * 17)
    pages = ", ".join(page_of(one) for one in group.ids)
    yield f"    {'read:':<13}{pages}"


def _members(group: Group, width: int) -> Iterator[str]:
    if len(group.findings) == 1 and not group.cause:
        (found,) = group.findings
        if found.captured_at or found.where:
            yield f"    {'at:':<13}{_near(found.captured_at or found.where)}"
        yield from _evidence(found, width)
        return
    for found in group.findings[:_MANY]:
        place = _near(found.captured_at or found.where)
        yield from _wrapped(f"    - {place + ': ' if place else ''}{_what(found)}", width, then="      ")
    if len(group.findings) > _MANY:
        yield f"    - and {len(group.findings) - _MANY} more (--json has them all)"


def _what(found: Finding) -> str:
    if not (found.holder and found.original):
        return found.message
    name = f"{found.holder}.{found.attribute}" if found.attribute else found.holder
    form = f" ({found.form})" if found.form else ""
    effect = f", which {_EFFECTS.get(found.effect, found.effect)}" if found.effect else ""
    return f"{name}{form} is {found.original}{effect}"


_EFFECTS = {
    "blocks-hub": "stops every greenlet while it waits",
    "deadlocks": "locks the process up once its holder switches",
    "hangs": "never returns",
    "crashes": "raises on first use",
    "leaks-state": "is one object for all greenlets",
    "no-exclusion": "keeps no greenlet out",
    "wrong-identity": "is not the class others look for",
}


def _evidence(found: Finding, width: int, *, most: int = _MANY) -> Iterator[str]:
    for line in found.evidence[:most]:
        near = f"    {_near(line)}"
        yield near if len(near) <= width else f"{near[: width - 2]} …"
    if len(found.evidence) > most:
        yield f"    and {len(found.evidence) - most} more"


def _near(place: str) -> str:
    """Return `place` with paths below the current directory made relative to it."""
    return place.replace(os.getcwd() + os.sep, "")  # noqa: PTH109


def _wrapped(line: str, width: int, *, then: str = "") -> list[str]:
    return textwrap.wrap(
        line, max(width, 40), subsequent_indent=then, break_long_words=False, break_on_hyphens=False
    )


def _paint(text: str, code: str, *, color: bool) -> str:
    return f"\033[{code}m{text}\033[0m" if color else text
