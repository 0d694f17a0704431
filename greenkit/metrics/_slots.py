"""How the processes of one host find each other: a directory with a numbered lock and socket for each.

The number is the process's name in the metrics. It is taken by a lock that the kernel gives back with the
process, so numbers are used again and stay few, however many workers come and go.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

from greenkit.errors import ConfigError

__all__ = ["Slot", "directory_for", "directory_of"]

_MOST = 1000


def directory_of(port: int) -> Path:
    """Return the directory where processes that share `port` meet, when none is named. Switches: never."""
    return Path(tempfile.gettempdir(), f"greenkit-metrics-{os.getuid()}-{port}")


def directory_for(port: int, given: str | None) -> Path:
    """Return the directory of the processes that share `port`, made when it is not there.

    Raises:
        ConfigError: It belongs to somebody else, who could answer in our name.

    Switches: never.
    """
    path = Path(given) if given else directory_of(port)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = path.lstat()
    if path.is_symlink() or state.st_uid != os.getuid():
        raise ConfigError(
            f"the directory of the metrics, {path}, belongs to user {state.st_uid} or is a link; its owner"
            " could answer in the name of this process. Name another one with GREENKIT_METRICS_DIR"
        )
    return path


class Slot:
    """Hold the smallest number that no other process of the directory has.

    Attributes:
        number: It, as text.
        socket: Where this process listens.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        for number in range(_MOST):
            self._lock = os.open(directory / f"{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(self._lock)
                continue
            self.number = str(number)
            self.socket = directory / f"{number}.sock"
            self.socket.unlink(missing_ok=True)  # a killed process left it
            return
        raise ConfigError(f"{_MOST} processes use the directory {directory}; give some of them another one")

    def others(self) -> dict[str, str]:
        """Return {number: socket} of the other processes that live. Switches: never."""
        found = {}
        for path in self._directory.glob("*.sock"):
            if path.stem != self.number and _is_held(path.with_suffix(".lock")):
                found[path.stem] = str(path)
        return dict(sorted(found.items()))

    def free(self) -> None:
        """Give the number back. Switches: never."""
        self.socket.unlink(missing_ok=True)
        self.forget()

    def forget(self) -> None:
        """Close the lock without giving the number back: in a forked child it is the parent's.

        Switches: never.
        """
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _is_held(lock: Path) -> bool:
    try:
        found = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(found)
