"""Files that are read while they are written: whole, or not there."""

from __future__ import annotations

import os

__all__ = ["read", "write"]


def write(path: str, text: str) -> None:
    """Make `path` hold `text`; whoever reads it sees the old text or the new one, never a part.

    Switches: never.
    """
    # The process and thread in the name: a native thread and the main one may write at once.
    draft = f"{path}.{os.getpid()}-{id(text):x}"
    with open(draft, "w", encoding="utf-8", errors="backslashreplace") as file:  # noqa: PTH123
        file.write(text)
    os.replace(draft, path)  # noqa: PTH105 - pathlib is not worth its import here


def read(path: str) -> str:
    """Return what `path` holds, "" when it is not there.

    Switches: never.
    """
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123
            return file.read()
    except FileNotFoundError:
        return ""
