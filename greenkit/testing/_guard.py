"""The parent's side of a guardian: start it, ask it, let it go.

One `Guard` per embedded server and per `Program`. What the guardian promises is written in `_guardian.py`.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from greenkit.testing._place import base_directory
from greenkit.testing._side_process import SideProcess

__all__ = ["Guard"]

_PROGRAM = str(Path(__file__).with_name("_guardian.py").resolve())


class Guard(SideProcess):
    """Keep one guardian process, and through it a directory and a tree of processes.

    Args:
        kind: Goes into the directory's name: greenkit-<kind>-<random>.
        uid: Whom the spawned programs run as; None for ourselves.

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

    def close(self, *, timeout: float = 15.0) -> None:
        """Have the programs stopped and the directory removed, and wait for it.

        Switches: may
        """
        mine = self._owner == os.getpid() and self._control >= 0
        super().close(timeout=timeout)
        if mine and self.directory:
            # The guardian has done so, unless somebody killed it.
            shutil.rmtree(self.directory, ignore_errors=True)

    def _name(self) -> str:
        return f"the {self.role} of {self.directory}" if self.directory else f"a {self.role}"
