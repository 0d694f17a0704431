"""Send callbacks to a hub from other threads, and keep the hub waiting for them.

Not `loop.run_callback_threadsafe()`: it counts the callback into the loop from the sender's thread,
under the GIL, while libev, which runs without it, counts expired timers out of the same number
(gevent 26.9, `run_callback` and libev's `ev_ref`). A lost update ends the loop while greenlets
wait, or keeps it from ending. A `Mailbox` touches only the loop's own thread-safe signal.
"""

from __future__ import annotations

import math
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any

from gevent import get_hub
from gevent._hub_local import get_hub_if_exists  # the public function would make a hub
from gevent.exceptions import BlockingSwitchOutError
from greenlet import getcurrent

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Mailbox", "hub_here", "hub_to_wait_in"]

# A century, in seconds.
_NEVER = 3e9
# Greenlets are woken back to back for so long, then descriptors and timers are served: otherwise a thousand
# greenlets woken at once would hold up all other greenlets until the last has run.
_BATCH_TIME = 0.005


def hub_here() -> Any:
    """Return the hub of this thread, or None; makes none.

    Switches: never.
    """
    return get_hub_if_exists()


def hub_to_wait_in() -> Any:
    """Return the hub of this thread, made if there is none, for a greenlet that is about to wait in it.

    Raises:
        BlockingSwitchOutError: The hub itself is running, in a callback of its loop or in a finalizer that
            the collector calls there: a switch to itself would return at once, as if the wait were over.

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
        hub: The hub that runs the callbacks.
    """

    __slots__ = (
        "_callbacks",
        "_endless",
        "_keepers",
        "_postponed",
        "_signal",
        "_since",
        "_timer",
        "_waking",
        "hub",
    )

    def __init__(self, hub: Any) -> None:
        self.hub = hub
        self._callbacks: deque[Callable[[], object]] = deque()
        self._signal = hub.loop.async_(ref=False)
        self._signal.start(self._deliver)
        # Greenlets being woken: how many, since when, and those left for the loop's next iteration.
        self._waking, self._since = 0, 0.0
        self._postponed: list[Callable[[], object]] = []
        self._timer: Any = None
        self._keepers = 0
        self._endless: Any = None

    @staticmethod
    def of(hub: Any) -> Mailbox:
        """Return the mailbox of `hub`, the hub of this thread; made at the first call.

        Switches: never.
        """
        try:
            box: Mailbox = hub.greenkit_mailbox  # stored on the hub, so that both end together
        except AttributeError:
            box = hub.greenkit_mailbox = Mailbox(hub)
        return box

    def post(self, callback: Callable[[], object]) -> bool:
        """Have the hub run `callback` soon, from any thread; tell whether it will.

        A hub whose thread has ended runs nothing more.

        Switches: never.
        """
        hub = self.hub
        loop = hub.loop
        if loop is None or hub.dead:
            return False
        if hub is hub_here():
            loop.run_callback(callback)
            return True
        self._callbacks.append(callback)
        try:
            self._signal.send()
        except ValueError:  # gevent: "operation on destroyed loop"
            return False
        return True

    def keep_alive(self) -> None:
        """Keep the hub from raising LoopExit while it has nothing of its own to wait for.

        The hub does not know what other threads will send. Call it in the hub's thread.

        Switches: never.
        """
        self._keepers += 1
        if self._keepers == 1:
            self._endless = self.hub.loop.timer(_NEVER)
            self._endless.start(_nothing)

    def let_go(self) -> None:
        """Take back one `keep_alive()`.

        Switches: never.
        """
        self._keepers -= 1
        if not self._keepers:
            self._endless.close()

    def wake(self, callback: Callable[[], object]) -> None:
        """Have the hub run `callback`, which switches to a greenlet, soon, from any thread.

        As `post()`, but after 5 ms of such callbacks the rest wait for the loop's next iteration.

        Switches: never.
        """
        if self.hub is not hub_here():
            self.post(callback)
            return
        if not self._waking:
            self._since = math.inf  # the time starts when the first one runs
        self._waking += 1
        self.hub.loop.run_callback(self._wake_next, callback)

    def _wake_next(self, callback: Callable[[], object]) -> None:
        self._since = min(self._since, monotonic())
        if monotonic() - self._since <= _BATCH_TIME:
            self._waking -= 1
            callback()  # last: in an unpatched thread it may return after minutes
            return
        self._postponed.append(callback)
        if len(self._postponed) == 1:
            if self._timer is None:
                self._timer = self.hub.loop.timer(0.0)
            self._timer.start(self._wake_rest)

    def _wake_rest(self) -> None:
        self._timer.stop()
        self._since = monotonic()
        postponed, self._postponed = self._postponed, []
        for callback in postponed:
            self.hub.loop.run_callback(self._wake_next, callback)

    def _deliver(self) -> None:
        # Run each as its own callback: an error in one must not hold up the rest.
        while self._callbacks:
            self.hub.loop.run_callback(self._callbacks.popleft())


def _nothing() -> None:
    pass
