"""A hub as other threads see it: callbacks they send it, and a reason to go on waiting for one.

Not `loop.run_callback_threadsafe()`: it counts the callback into the loop from the sender's thread,
under the GIL, while libev, which runs without it, counts expired timers out of the same number
(gevent 26.9, `run_callback` and libev's `ev_ref`). An update that gets lost ends the loop while
greenlets wait, or never. Sending here touches nothing of the loop but its own thread-safe signal.
"""

from __future__ import annotations

import math
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any

from gevent import get_hub
from gevent._hub_local import get_hub_if_exists  # the public one would make a hub where none is
from gevent.exceptions import BlockingSwitchOutError
from greenlet import getcurrent

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Mailbox", "hub_here", "hub_to_wait_in"]

# A century, in seconds.
_NEVER = 3e9
# Greenlets are woken back to back for so long; then descriptors and timers have their turn, or a thousand
# greenlets woken at once would keep every other one from running until the last has.
_BATCH_TIME = 0.005


def hub_here() -> Any:
    """Return the hub of this thread, or None: asking makes none.

    Switches: never.
    """
    return get_hub_if_exists()


def hub_to_wait_in() -> Any:
    """Return the hub of this thread, made if there is none, for a greenlet that is about to wait in it.

    Raises:
        BlockingSwitchOutError: The hub itself is running, in a callback of its loop or in a finalizer that
            the collector calls there: its switch to itself returns at once, as if the wait were over.

    Switches: never.
    """
    hub = get_hub()
    if getcurrent() is hub:
        msg = (
            "the hub cannot wait: this runs in a callback of the event loop (or in a finalizer called "
            "there), and no greenlet of the thread could run meanwhile. Use a greenlet: gevent.spawn(...)"
        )
        raise BlockingSwitchOutError(msg)
    return hub


class Mailbox:
    """Take callbacks for one hub from any thread.

    Get it with `Mailbox.of(hub)`, in the thread of the hub; from then on all threads may use it.

    Attributes:
        hub: Whose it is.
    """

    __slots__ = (
        "_breath",
        "_keepers",
        "_later",
        "_letters",
        "_never",
        "_signal",
        "_since",
        "_waking",
        "hub",
    )

    def __init__(self, hub: Any) -> None:
        self.hub = hub
        self._letters: deque[Callable[[], object]] = deque()
        self._signal = hub.loop.async_(ref=False)
        self._signal.start(self._deliver)
        # Greenlets being woken: how many, since when, and those that wait for the loop's next turn.
        self._waking, self._since = 0, 0.0
        self._later: list[Callable[[], object]] = []
        self._breath: Any = None
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

    def wake(self, callback: Callable[[], object]) -> None:
        """Have the hub run `callback`, which switches to a greenlet, soon, from whatever thread.

        As `post()`, but of many at once the rest wait for the next turn of the loop after 5 ms.

        Switches: never.
        """
        if self.hub is not hub_here():
            self.post(callback)
            return
        if not self._waking:
            self._since = math.inf  # the time runs from the first that is woken
        self._waking += 1
        self.hub.loop.run_callback(self._wake_next, callback)

    def _wake_next(self, callback: Callable[[], object]) -> None:
        self._since = min(self._since, monotonic())
        if monotonic() - self._since <= _BATCH_TIME:
            self._waking -= 1
            callback()  # the last thing done here: in a thread that is not patched it may return in minutes
            return
        self._later.append(callback)
        if len(self._later) == 1:
            if self._breath is None:
                self._breath = self.hub.loop.timer(0.0)
            self._breath.start(self._wake_rest)

    def _wake_rest(self) -> None:
        self._breath.stop()
        self._since = monotonic()
        later, self._later = self._later, []
        for callback in later:
            self.hub.loop.run_callback(self._wake_next, callback)

    def _deliver(self) -> None:
        # As callbacks of their own: an error in one must not hold up the rest.
        while self._letters:
            self.hub.loop.run_callback(self._letters.popleft())


def _nothing() -> None:
    pass
