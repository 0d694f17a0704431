"""The one timer of a line: calls back in a hub, from whatever thread it is set."""

from __future__ import annotations

from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from greenkit.wait import hub_here

if TYPE_CHECKING:
    from collections.abc import Callable

    from greenkit.wait import Mailbox

__all__ = ["Alarm"]


class Alarm:
    """Call `callback` in a hub after a while; setting it again replaces the time.

    Where two hubs share it, an earlier setting may still go off in the other one: whoever is called
    must look at the clock.

    Args:
        callback: Called in the hub.
        ref: It keeps the hub alive, as what somebody waits for does and housekeeping does not.
    """

    __slots__ = ("_callback", "_hub", "_number", "_ref", "_timer")

    def __init__(self, callback: Callable[[], None], *, ref: bool = True) -> None:
        self._callback = callback
        self._ref = ref
        self._hub: Any = None
        self._timer: Any = None
        self._number = 0

    def set(self, mailbox: Mailbox, seconds: float) -> None:
        """Go off in the hub of `mailbox`, `seconds` from now.

        Callers take turns (they hold the lock of the line).

        Switches: never.
        """
        hub = mailbox.hub
        self._number += 1
        if hub is hub_here():
            self._start(hub, seconds)
        else:
            mailbox.post(partial(self._start_there, self._number, hub, monotonic() + seconds))

    def cancel(self) -> None:
        """Do not go off, as far as this thread can help it.

        Switches: never.
        """
        self._number += 1
        # A libev timer may only be touched by its own thread.
        if self._timer is not None and self._hub is hub_here():
            self._timer.close()
        self._timer = None

    def _start_there(self, number: int, hub: Any, due: float) -> None:
        # Set anew since: starting this one would end the timer of a later setting, and nobody would be woken.
        if number == self._number:
            self._start(hub, due - monotonic())

    def _start(self, hub: Any, seconds: float) -> None:
        if self._timer is not None and self._hub is hub:
            self._timer.close()
        timer = hub.loop.timer(max(seconds, 0.0), ref=self._ref)
        self._hub, self._timer = hub, timer
        timer.start(self._callback)
