"""Findings put together by what caused them.

One import that came too early may leave twenty stale names: that is one thing to tell and one
thing to mend.
"""

from __future__ import annotations

from dataclasses import dataclass

from greenkit.findings import Finding, Severity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Group", "groups"]

_RANK = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.INFO: 2}


@dataclass(frozen=True, slots=True)
class Group:
    """Hold the findings of one cause, the gravest first.

    Attributes:
        findings: At least one.
        cause: `file:line` of the import that explains them all; "" when they share only their rule.
    """

    findings: tuple[Finding, ...]
    cause: str = ""

    @property
    def severity(self) -> Severity:
        """Return the severity of the gravest."""
        return self.findings[0].severity

    @property
    def seen(self) -> bool:
        """Tell whether the gravest of them was seen to do harm, and is not only known to."""
        return _is_seen(self.findings[0])

    @property
    def ids(self) -> tuple[str, ...]:
        """Return the ids in it, each once, in the order of their gravity."""
        return tuple(dict.fromkeys(found.id for found in self.findings))

    @property
    def hints(self) -> tuple[str, ...]:
        """Return the hints in it, each once."""
        return tuple(dict.fromkeys(found.hint for found in self.findings if found.hint))


def groups(findings: Iterable[Finding]) -> list[Group]:
    """Return `findings` by cause, the gravest group first; information is never among the grave.

    Switches: never.
    """
    by_cause: dict[tuple[str, ...], list[Finding]] = {}
    for found in findings:
        by_cause.setdefault(_cause(found), []).append(found)
    made = [
        Group(tuple(sorted(members, key=_gravity)), cause=key[1] if key[0] == "import" else "")
        for key, members in by_cause.items()
    ]
    return sorted(
        made, key=lambda group: (_RANK[group.severity], not group.seen, -len(group.findings), group.cause)
    )


def _cause(found: Finding) -> tuple[str, ...]:
    if found.severity is Severity.INFO:
        return ("info", found.id, found.rule) if found.rule and found.holder else ("one", found.message)
    if found.imported_at:
        return "import", found.imported_at, found.patched_at
    if found.rule and found.holder:
        return "rule", found.id, found.rule, found.hint
    return "one", found.id, found.message


def _gravity(found: Finding) -> tuple[int, bool, str, str]:
    return _RANK[found.severity], not _is_seen(found), found.holder, found.attribute


def _is_seen(found: Finding) -> bool:
    seen = any(line.startswith("seen: ") for line in found.evidence)
    return (
        seen or found.message.startswith("died of ") or (found.effect == "deadlocks" and found.id == "GK401")
    )
