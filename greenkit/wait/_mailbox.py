"""A hub as other threads see it: callbacks they send it, and a reason to go on waiting for one.

Not `loop.run_callback_threadsafe()`: it counts the callback into the loop from the sender's thread,
under the GIL, while libev, which runs without it, counts expired timers out of the same number
(gevent 26.9, `run_callback` and libev's `ev_ref`). An update that gets lost ends the loop while
greenlets wait, or never. Sending here touches nothing of the loop but its own thread-safe signal.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from gevent._hub_local import get_hub_if_exists  # the public one would make a hub where none is

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Mailbox", "hub_here"]

# A century, in seconds.
_NEVER = 3e9


def hub_here() -> Any:
    """Return the hub of this thread, or None: asking makes none.

    Switches: never.
    """
    return get_hub_if_exists()


class Mailbox:
    """Take callbacks for one hub from any thread.

    Get it with `Mailbox.of(hub)`, in the thread of the hub; from then on all threads may use it.

    Attributes:
        hub: Whose it is.
    """

    __slots__ = ("_keepers", "_letters", "_never", "_signal", "hub")

    def __init__(self, hub: Any) -> None:
        self.hub = hub
        self._letters: deque[Callable[[], object]] = deque()
        self._signal = hub.loop.async_(ref=False)
        self._signal.start(self._deliver)
        self._keepers = 0
        self._never: Any = None

    @staticmethod
    def of(hub: Any) -> Mailbox:
        """Return the mailbox of `hub`, the hub of this thread; made at the first call.

        Switches: never.
        """
        try:
            box: Mailbox = hub.greenkit_mailbox  # it lives and goes with its hub
        except AttributeError:
            box = hub.greenkit_mailbox = Mailbox(hub)
        return box

    def post(self, callback: Callable[[], object]) -> bool:
        """Have the hub run `callback` soon, from whatever thread; tell whether it will.

        A hub whose thread has ended runs nothing more, and nobody waits in it.

        Switches: never.
        """
        hub = self.hub
        loop = hub.loop
        if loop is None or hub.dead:
            return False
        if hub is hub_here():
            loop.run_callback(callback)
            return True
        self._letters.append(callback)
        try:
            self._signal.send()
        except ValueError:  # gevent: "operation on destroyed loop"
            return False
        return True

    def keep_alive(self) -> None:
        """Keep the hub, in its own thread, from ending for want of anything to wait for.

        It raises LoopExit then; of what other threads will send it knows nothing.

        Switches: never.
        """
        self._keepers += 1
        if self._keepers == 1:
            self._never = self.hub.loop.timer(_NEVER)
            self._never.start(_nothing)

    def let_go(self) -> None:
        """Take back one `keep_alive()`.

        Switches: never.
        """
        self._keepers -= 1
        if not self._keepers:
            self._never.close()

    def _deliver(self) -> None:
        # As callbacks of their own: an error in one must not hold up the rest.
        while self._letters:
            self.hub.loop.run_callback(self._letters.popleft())


def _nothing() -> None:
    pass
