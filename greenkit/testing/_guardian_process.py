"""The parent's side of a guardian process: start it, send commands, close it.

One `GuardianProcess` per embedded server and per `Program`. `_guardian.py` says what it does.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from greenkit.testing._place import base_directory
from greenkit.testing._side_process import SideProcess

__all__ = ["GuardianProcess"]

_PROGRAM = str(Path(__file__).with_name("_guardian.py").resolve())


class GuardianProcess(SideProcess):
    """Run a guardian process, which owns a directory and a tree of processes.

    Args:
        kind: Goes into the directory's name: greenkit-<kind>-<random>.
        uid: User id of the spawned programs; None for the current user's.

    Raises:
        ServerStartError: The guardian did not start.
    """

    __slots__ = ("directory", "uid")

    role = "test server's guardian"

    def __init__(self, kind: str, *, uid: int | None) -> None:
        self.uid = uid
        self.directory = ""
        who = str(-1 if uid is None else uid)
        super().__init__(_PROGRAM, str(os.getpid()), base_directory(uid), f"greenkit-{kind}-", who)
        self.directory = self.greeting["directory"]

    def become(self, uid: int) -> None:
        """Run the next program as user `uid`, who gets the files of the user so far."""
        self.ask("become", uid=uid, directory=self.directory, reply_timeout=30.0)
        self.uid = uid

    def close(self, *, timeout: float = 15.0) -> None:
        """Stop the programs and remove the directory, and wait for both."""
        mine = self._owner == os.getpid() and self._control >= 0
        super().close(timeout=timeout)
        if mine and self.directory:
            # The guardian has done so, unless it was killed.
            shutil.rmtree(self.directory, ignore_errors=True)

    def _name(self) -> str:
        return f"the {self.role} of {self.directory}" if self.directory else f"a {self.role}"
