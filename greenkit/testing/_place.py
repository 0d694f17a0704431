"""The user, the directory and a free port for a test server.

Reads the file system only; starts and creates nothing.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import socket
import stat
import tempfile
from pathlib import Path

__all__ = ["account_uid", "base_directory", "free_port", "reachable_by", "server_uid"]

# Given to accounts by no distribution, and to nothing by systemd (docs/UIDS-GIDS of version 257).
_FREE_UIDS = range(60_706, 61_184)

# A socket path holds 108 bytes on Linux, 104 on macOS, the closing NUL included.
_LONGEST_BASE = 100 - len("/greenkit-postgres-12345678/.s.PGSQL.5432.lock")


def server_uid() -> int | None:
    """Return the uid for a new server: None for the current user; for root, one that is nobody else's.

    PostgreSQL refuses to run as root, and a test server needs no root rights. The uid has no account and no
    other process: what else runs unprivileged (as `nobody`, say) can neither read the server's files nor
    signal it.
    """
    if os.geteuid() != 0:
        return None
    taken = {account.pw_uid for account in pwd.getpwall()} | _uids_of_processes()
    # Not the global generator: tests seed it, and parallel runs would draw the same.
    return random.SystemRandom().choice([uid for uid in _FREE_UIDS if uid not in taken])


def account_uid() -> int | None:
    """Return an unprivileged uid that has an account, None without one: `initdb` looks up who it runs as."""
    accounts = sorted(pwd.getpwall(), key=lambda account: account.pw_name != "nobody")
    return next((account.pw_uid for account in accounts if account.pw_uid != 0), None)


def _uids_of_processes() -> set[int]:
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it ended while we looked
                found.add(entry.stat().st_uid)
    return found


def reachable_by(path: Path, uid: int | None) -> bool:
    """Tell whether `uid` (None: the current user) can reach `path` and run it.

    Reads permission bits only; with an access list the answer may be a false no.
    """
    if uid is None:
        return True
    whole = path.resolve()
    try:
        found = [place.stat() for place in (whole, *whole.parents)]
    except OSError:
        return False
    return all(status.st_mode & (stat.S_IXUSR if status.st_uid == uid else stat.S_IXOTH) for status in found)


def base_directory(uid: int | None) -> str:
    """Return the directory to make private directories in: short enough for sockets, reachable."""
    wanted = Path(tempfile.gettempdir()).resolve()
    if len(os.fsencode(wanted)) <= _LONGEST_BASE and reachable_by(wanted, uid):
        return str(wanted)
    return "/tmp"  # noqa: S108 - only private directories are made in it


def free_port() -> int:
    """Return an unused TCP port of the loopback address.

    Below the range that outgoing connections draw from (32768 on Linux), so that only another
    server can take it before ours binds it; callers try again then.
    """
    # Not the global generator: tests seed it, and parallel runs would draw the same ports.
    draw = random.SystemRandom()
    for _ in range(200):
        port = draw.randrange(20_000, 32_000)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no free TCP port found between 20000 and 32000 on 127.0.0.1")
