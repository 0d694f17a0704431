"""Files that are read while they are written: whole, or not there."""

from __future__ import annotations

import os
import stat
import sys

__all__ = ["read", "write", "write_report"]

PRIVATE = 0o600
_said: set[str] = set()  # paths that could not be written, each told once


def write(path: str, text: str, *, mode: int = PRIVATE) -> None:
    """Make `path` hold `text`; whoever reads it sees the old text or the new one, never a part.

    A symbolic link is followed. What is no regular file (a device, a FIFO, a descriptor of this
    process) is written to and stays what it is.

    Args:
        path: The file.
        text: What it will hold.
        mode: Its permissions, before the umask. What the doctor sees is nobody else's business.

    Raises:
        OSError: It cannot be written.

    Switches: never.
    """
    if not _is_replaceable(path):
        _append(path, text)
        return
    path = os.path.realpath(path)
    # The process and thread in the name: a native thread and the main one may write at once.
    draft = f"{path}.{os.getpid()}-{id(text):x}"
    try:
        number = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        with open(number, "w", encoding="utf-8", errors="backslashreplace") as file:  # noqa: PTH123
            file.write(text)
        os.replace(draft, path)  # noqa: PTH105 - pathlib is not worth its import here
    except OSError:
        if os.path.exists(draft):  # noqa: PTH110
            os.unlink(draft)  # noqa: PTH108
        raise


def write_report(path: str, text: str) -> None:
    """Write a report; when that fails, say so in one line on standard error, once for a path.

    Switches: never.
    """
    try:
        write(path, text)
    except OSError as error:
        observed = os.environ.get("GREENKIT_OBSERVE", "")
        gone = observed and not os.path.isdir(observed)  # noqa: PTH112
        if path not in _said and not gone:  # a process that outlives the doctor has nobody to tell
            _said.add(path)
            sys.stderr.write(f"greenkit: the report cannot be written to {path}: {error.strerror}\n")


def _is_replaceable(path: str) -> bool:
    # /dev/stdout may lead to a regular file, and it is the descriptor that is meant, not the file.
    if os.path.abspath(path).startswith(("/dev/", "/proc/")):  # noqa: PTH100
        return False
    try:
        return stat.S_ISREG(os.stat(path).st_mode)  # noqa: PTH116
    except FileNotFoundError:
        return True


def _append(path: str, text: str) -> None:
    # Without waiting: a FIFO nobody reads would keep the program from ending.
    number = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    os.set_blocking(number, True)
    with open(number, "w", encoding="utf-8", errors="backslashreplace") as file:  # noqa: PTH123
        file.write(text)


def read(path: str) -> str:
    """Return what `path` holds, "" when it is not there.

    Switches: never.
    """
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123
            return file.read()
    except FileNotFoundError:
        return ""
