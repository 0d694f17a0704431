"""Findings a project has looked at and accepted, in a file it commits.

A finding is known by what it is about, never by its line: a line moves with every edit above it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from greenkit.doctor import _files
from greenkit.doctor._secrets import without_secrets
from greenkit.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from greenkit.doctor._diagnosis import Diagnosis
    from greenkit.findings import Finding

__all__ = ["accept", "write_baseline"]

_KNOWN_BY = ("id", "rule", "holder", "attribute", "original")


def accept(diagnosis: Diagnosis, path: str) -> Diagnosis:
    """Return `diagnosis` without the findings the file at `path` accepts.

    Raises:
        ConfigError: There is no such file, or it is no baseline.
    """
    accepted = _read(path)
    left = tuple(found for found in diagnosis.findings if _name(found) not in accepted)
    gone = accepted - {_name(found) for found in diagnosis.findings}
    return replace(
        diagnosis,
        findings=left,
        accepted=len(diagnosis.findings) - len(left),
        gone=tuple(sorted(" ".join(filter(None, name)) for name in gone)),
    )


def write_baseline(diagnosis: Diagnosis, path: str) -> int:
    """Make the file at `path` accept every finding of `diagnosis`; return how many.

    Raises:
        ConfigError: The file cannot be written.
    """
    names = sorted({_name(found) for found in diagnosis.findings})
    entries: list[dict[str, Any]] = [dict(zip(_KNOWN_BY, name, strict=True)) for name in names]
    try:
        # It goes into the repository, where others read it, and holds no values.
        _files.write(path, json.dumps({"version": 1, "accepted": entries}, indent=1) + "\n", mode=0o666)
    except OSError as error:
        raise ConfigError(f"cannot write the baseline {path}: {error.strerror}") from error
    return len(names)


def _name(found: Finding) -> tuple[str, ...]:
    name = tuple(str(getattr(found, one)) for one in _KNOWN_BY)
    # Without a holder only the words tell two findings of one rule apart.
    return name if found.holder else (*name[:4], without_secrets(found.message))


def _read(path: str) -> set[tuple[str, ...]]:
    text = _files.read(path)
    if not text:
        raise ConfigError(f"there is no baseline {path}; make it with: --baseline {path} --write-baseline")
    try:
        document = json.loads(text)
        if document["version"] != 1:
            raise ConfigError(f"{path} is a baseline of version {document['version']}; this greenkit reads 1")
        return {tuple(str(one[part]) for part in _KNOWN_BY) for one in document["accepted"]}
    except (ValueError, TypeError, KeyError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path} is no baseline of greenkit: {error!r}") from error
