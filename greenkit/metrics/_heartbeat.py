"""Proof that the hub turns: a file it writes for `greenkit alive`, and systemd's watchdog.

The file holds when the process started and when the hub last came by, both on clocks of the kernel that
another process can read: `greenkit.cli` compares them without loading anything of the project.
"""

from __future__ import annotations

import atexit
import os
import socket
from pathlib import Path
from time import monotonic
from typing import Any

from greenkit import boot
from greenkit.errors import ConfigError
from greenkit.metrics._health import is_gunicorns_master, not_ready

__all__ = ["Heartbeat", "heartbeat"]

_EVERY = 1.0


class Heartbeat:
    """Write `directory/<pid>` once a second from the hub of this thread, and tell systemd, until `stop()`.

    Args:
        directory: Where `greenkit alive` looks; None writes no file.
        notify: Address of systemd's socket, such as `NOTIFY_SOCKET`; "" tells nobody.
        watchdog: Seconds systemd waits for a sign of life; 0.0 when it does not watch.
    """

    def __init__(self, directory: Path | None, *, notify: str = "", watchdog: float = 0.0) -> None:
        self._directory = directory
        self._notify = "\0" + notify[1:] if notify.startswith("@") else notify
        self._watchdog = bool(watchdog)
        self._every = min(_EVERY, watchdog / 3) if watchdog else _EVERY
        self._file = -1
        self._path = Path()
        self._pid = 0
        self._started = ""
        self._told_ready = not notify
        self._timer: Any = None
        self._forget_hub = boot.on_hub(self._attach)

    def stop(self) -> None:
        """End, and take the file away. Switches: never."""
        self._forget_hub()
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None
        self.withdraw()

    def withdraw(self) -> None:
        """Take the file of this process away. Switches: never."""
        if self._file >= 0 and self._pid == os.getpid():
            os.close(self._file)
            self._file = -1
            self._path.unlink(missing_ok=True)

    def _attach(self, hub: Any) -> None:
        # Not counted by the loop: a program ends although it is watched.
        self._timer = hub.loop.timer(0.0, self._every, ref=False)
        self._timer.start(self._beat)

    def _beat(self) -> None:
        if self._directory is not None:
            self._write(self._directory)
        if self._notify:
            if not self._told_ready and not not_ready():
                self._told_ready = True
                self._tell("READY=1")
            if self._watchdog:
                self._tell("WATCHDOG=1")

    def _write(self, directory: Path) -> None:
        if self._pid != os.getpid():
            if is_gunicorns_master():
                return
            # At the first beat, and in a forked child, whose file is its own.
            self._started = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
            self._pid = os.getpid()
            self._path = directory / str(self._pid)
            self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        os.pwrite(self._file, f"{self._started} {monotonic():020.3f}\n".encode(), 0)

    def _tell(self, word: str) -> None:
        # Natively and without waiting: a datagram to systemd, from the hub.
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as plug:
            plug.setblocking(False)
            try:
                plug.sendto(word.encode(), self._notify)
            except OSError:
                pass  # systemd counts what it gets; it restarts what stays silent


_process: list[Heartbeat] = []


def heartbeat(directory: str | None = None) -> Heartbeat | None:
    """Show that the hub turns: in a file for `greenkit alive`, and to systemd; a second call changes nothing.

    systemd is told `READY=1` once the process is ready, and `WATCHDOG=1` where the unit has `WatchdogSec=`
    (`NOTIFY_SOCKET`, `WATCHDOG_USEC`). `greenkit.auto` calls it when one of them or
    `GREENKIT_ALIVE` is set.

    Args:
        directory: Where the file goes, one for each process; None reads `GREENKIT_ALIVE`.

    Returns:
        The heartbeat, or None when there is nobody to show it to.

    Raises:
        ConfigError: The directory cannot be written to.

    Switches: never.
    """
    if _process:
        return _process[0]
    place = directory or os.environ.get("GREENKIT_ALIVE", "")
    path = Path(place) if place else None
    if path is not None:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"GREENKIT_ALIVE={place!r} cannot be made a directory: {error}") from None
        if not os.access(path, os.W_OK):
            raise ConfigError(
                f"GREENKIT_ALIVE={place!r} cannot be written to; a probe would call this process dead"
            )
    notify = os.environ.get("NOTIFY_SOCKET", "")
    meant = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    watchdog = float(os.environ.get("WATCHDOG_USEC") or 0) / 1e6 if notify and meant else 0.0
    if path is None and not notify:
        return None
    _process.append(Heartbeat(path, notify=notify, watchdog=watchdog))
    return _process[0]


def _at_exit() -> None:
    for beat in _process:
        beat.withdraw()


atexit.register(_at_exit)
