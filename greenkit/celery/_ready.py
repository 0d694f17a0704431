"""Whether this worker takes messages: what `/readyz` and systemd are told of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from greenkit import facts

__all__ = ["Consuming", "ReadyState"]


@dataclass(frozen=True, slots=True)
class ReadyState:
    """Say whether work may be given.

    Attributes:
        ready: It may.
        why: Why not; "" when it may.
    """

    ready: bool
    why: str = ""


class Consuming:
    """Tell whether a consumer has its broker and starts what it gets.

    A broker that is away is no dead worker: it is alive, and not ready.
    """

    name = "celery"

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self.connected = False
        facts.register("ready", self)

    def statistics(self) -> ReadyState:
        """Return whether the worker consumes. Switches: never."""
        if self._pool.draining:
            return ReadyState(ready=False, why="the worker stops")
        if not self.connected:
            return ReadyState(ready=False, why="the broker is away")
        return ReadyState(ready=True)
