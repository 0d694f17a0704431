"""Show a diagnosis to a person: what is most certain first, the verdict and the next step last."""

from __future__ import annotations

import os
import textwrap

from greenkit.doctor import _probes_text
from greenkit.doctor._diagnosis import hidden
from greenkit.doctor._groups import groups
from greenkit.doctor._verdict import counts, next_step, seen
from greenkit.findings import Severity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from greenkit.doctor._diagnosis import Diagnosis
    from greenkit.doctor._groups import Group
    from greenkit.findings import Finding

__all__ = ["to_text"]

_PAINT = {Severity.ERROR: "1;31", Severity.WARNING: "1;33", Severity.INFO: "2"}
_LINES = 25
"""Lines a report has unless everything is asked for: what a person reads to the end."""
_MANY = 8
"""Of more things of one cause only this many are listed, however much is asked for; the JSON has all."""
_FEW = 3


def to_text(diagnosis: Diagnosis, *, width: int = 100, color: bool = False, everything: bool = True) -> str:
    """Return `diagnosis` as lines for a terminal; the last one is the verdict and what to do next.

    Args:
        diagnosis: What was seen.
        width: Columns to fill.
        color: Paint severities with ANSI colours.
        everything: Show all. Otherwise some 25 lines: the causes that are most certain, and how much
            more there is.

    Switches: never.
    """
    diagnosis = hidden(diagnosis)
    head = list(_wrapped(seen(diagnosis), width))
    tail: list[str] = []
    if diagnosis.probes:
        tail += ["", *_probes_text.table(diagnosis.probes)]
    if diagnosis.problem:
        tail += ["", *_wrapped(_paint(f"Could not look: {diagnosis.problem}", "1;31", color=color), width)]
        tail += [f"    {_near(line)}" for line in diagnosis.trace]
    # The last lines are a blank one, the verdict and the next step.
    room = 10_000 if everything else _LINES - len(head) - len(tail) - 3
    blocks, left = _blocks(diagnosis, width, color=color, room=room)
    last = [counts(diagnosis, left), *filter(None, [next_step(diagnosis)])]
    one_line = "  ".join(last)
    # Never wrapped: the end of it is a command to copy.
    return "\n".join([*head, *blocks, *tail, "", *([one_line] if len(one_line) <= width else last)])


def _blocks(diagnosis: Diagnosis, width: int, *, color: bool, room: int) -> tuple[list[str], int]:
    """Return the lines about the findings, and how many findings they leave out."""
    lines: list[str] = []
    left = 0
    said: set[str] = set()
    full = False
    for group in groups(diagnosis.findings):
        most = _MANY if room > _LINES else _FEW
        block = ["", *_group(group, width, color=color, said=said, most=most)]
        # The first is shown, however long; what is less certain than one left out is left out, too.
        full = full or bool(lines and len(lines) + len(block) > room)
        if full:
            left += len(group.findings)
        else:
            lines += block
    return lines, left


def _group(group: Group, width: int, *, color: bool, said: set[str], most: int) -> Iterator[str]:
    first = group.findings[0]
    label = _paint(group.severity.value.upper(), _PAINT[group.severity], color=color)
    title = f"{label}  {', '.join(group.ids)}  {_title(group)}"
    yield from _wrapped(title, width, then="       ")
    if group.severity is Severity.INFO:
        if len(group.findings) == 1:
            yield from _evidence(first.evidence, width, most=_FEW)
        return
    yield from _members(group, width, most)
    places = {"imported at": "" if group.cause else first.imported_at, "patched at": first.patched_at}
    for what, place in places.items():
        if place and f"{what} {place}" not in said:
            said.add(f"{what} {place}")
            yield f"    {what + ':':<13}{_near(place)}"
    yield from _fixes(group, width, said)
    unread = [one for one in group.ids if one not in said]
    said.update(unread)
    if unread:
        yield f"    {'read:':<13}greenkit explain {' '.join(unread)}"


def _title(group: Group) -> str:
    first, count = group.findings[0], len(group.findings)
    if group.cause:
        kept = f"{count} things still hold what" if count > 1 else "one thing still holds what"
        return f"{_near(group.cause)} imports too early: {kept} the patch replaced."
    if count == 1:
        return first.message
    names = [_name(found) for found in group.findings]
    about = ", ".join(dict.fromkeys(names[:_FEW])) + (f" and {count - _FEW} more" if count > _FEW else "")
    return f"{count} times {_RULES.get(first.rule, first.rule)}: {about}"


_RULES = {
    "blocking-call": "the hub stood still",
    "early-import": "an import before the patch",
    "foreign-loop": "an event loop of another kind",
    "module-clone": "a private copy of a module",
    "native-lock": "a lock from before the patch",
    "native-rlock": "a lock from before the patch",
    "stale-reference": "an original kept from before the patch",
    "stale-subclass": "a subclass of an original class",
}


def _name(found: Finding) -> str:
    if not found.holder:
        return found.message
    return f"{found.holder}.{found.attribute}" if found.attribute else found.holder


# How the second sentence of a hint begins, and how it begins where the first was said before.
_LATER = {" Until then ": "Until then", " Or make ": "Make"}


def _fixes(group: Group, width: int, said: set[str]) -> Iterator[str]:
    """Yield the hints, each once in a report: many findings share their first sentence."""
    for hint in group.hints[:3]:
        mark = next((one for one in _LATER if one in hint), "")
        base, _, rest = hint.partition(mark) if mark else (hint, "", "")
        new = hint if base not in said else f"{_LATER[mark]} {rest}" if mark and hint not in said else ""
        if not new:
            continue
        # One example of what to write instead is enough for a group.
        if mark and f"{base}{mark}" in said and base in said:
            continue
        said.update((base, hint, f"{base}{mark}"))
        yield from _wrapped(f"    {'fix:':<13}{new}", width, then=" " * 17)


def _members(group: Group, width: int, most: int) -> Iterator[str]:
    if len(group.findings) == 1 and not group.cause:
        (found,) = group.findings
        at = found.captured_at or found.where
        if at and _near(at) not in found.message:
            yield f"    {'at:':<13}{_near(at)}"
        # A stack begins where the finding is.
        shown = {at, found.where}
        rest = [line for line in found.evidence if line.partition(" ")[0] not in shown]
        yield from _evidence(rest, width, most=most)
        return
    for found in group.findings[:most]:
        place = _near(found.captured_at or found.where)
        yield from _wrapped(f"    - {place + ': ' if place else ''}{_what(found)}", width, then="      ")
        proof = next((line for line in found.evidence if line.startswith("seen: ")), "")
        yield from _evidence([f"  {proof}"] if proof else [], width)
    if len(group.findings) > most:
        yield f"    - and {len(group.findings) - most} more"


def _what(found: Finding) -> str:
    if not (found.holder and found.original) or found.message.startswith("died of "):
        return found.message
    form = f" ({found.form})" if found.form else ""
    effect = f", which {_EFFECTS.get(found.effect, found.effect)}" if found.effect else ""
    return f"{_name(found)}{form} is {found.original}{effect}"


_EFFECTS = {
    "blocks-hub": "stops every greenlet while it waits",
    "deadlocks": "locks the process up once its holder switches",
    "hangs": "never returns",
    "crashes": "raises on first use",
    "leaks-state": "is one object for all greenlets",
    "no-exclusion": "keeps no greenlet out",
    "wrong-identity": "is not the class others look for",
}


def _evidence(lines: Iterable[str], width: int, *, most: int = _MANY) -> Iterator[str]:
    lines = list(lines)
    for line in lines[:most]:
        near = f"    {_near(line)}"
        yield near if len(near) <= width else f"{near[: width - 2]} …"
    if len(lines) > most:
        yield f"    and {len(lines) - most} more"


def _near(place: str) -> str:
    """Return `place` with paths below the current directory made relative to it."""
    return place.replace(os.getcwd() + os.sep, "")  # noqa: PTH109


def _wrapped(line: str, width: int, *, then: str = "") -> list[str]:
    return textwrap.wrap(
        line, max(width, 40), subsequent_indent=then, break_long_words=False, break_on_hyphens=False
    )


def _paint(text: str, code: str, *, color: bool) -> str:
    return f"\033[{code}m{text}\033[0m" if color else text
