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
    return sorted(made, key=lambda group: (_RANK[group.severity], -len(group.findings), group.cause))


def _cause(found: Finding) -> tuple[str, ...]:
    loud = "" if found.severity is Severity.INFO else "loud"
    if found.imported_at and loud:
        return "import", found.imported_at, found.patched_at
    if found.rule and found.holder:
        return "rule", found.id, found.rule, found.hint, loud
    return "one", found.id, found.message


def _gravity(found: Finding) -> tuple[int, str, str]:
    return _RANK[found.severity], found.holder, found.attribute
