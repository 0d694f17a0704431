"""Wait for a permit from a coroutine: in a greenlet, so that the coroutine's loop goes on.

Where the loop's thread has a hub, the greenlet is one of that thread. In a plain asyncio program the
waiting is done by one native thread with a hub of its own, whatever the number of coroutines: one queue, one
order, for sync and async callers alike.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeVar

import gevent
from gevent.hub import get_hub
from gevent.monkey import get_original

from greenkit.wait import Mailbox, hub_here

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["entered"]

T = TypeVar("T")


async def entered(enter: Callable[[], T], leave: Callable[[BaseException], object]) -> T:
    """Return what `enter()` returns, run where it may wait; cancelled, nothing stays taken.

    Args:
        enter: Waits in greenkit's way.
        leave: Undoes an `enter()` that succeeded when nobody was there any more to have its result.

    Switches: never; the coroutine waits.
    """
    import asyncio  # late: programs without coroutines do not load it

    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()
    gone: list[BaseException] = []

    def run() -> None:
        try:
            result = enter()
        except BaseException as error:
            loop.call_soon_threadsafe(_tell, answer, None, error)
            return
        if gone:
            leave(gone[0])
        else:
            loop.call_soon_threadsafe(hand_over, result)

    def hand_over(result: T) -> None:
        # In the loop's thread, as the cancel is: one of them comes first.
        if gone:
            leave(gone[0])
        else:
            taken.append(True)
            _tell(answer, result, None)

    waiting: list[Any] = []
    taken: list[bool] = []

    def start() -> None:
        if not gone:
            waiting.append(gevent.spawn(run))

    mailbox = Mailbox.of(hub_here()) if hub_here() is not None else _helper()
    mailbox.post(start)
    try:
        return await answer
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError):
            gone.append(error)
            if taken:
                leave(error)  # granted and cancelled in the same pass of the loop
            else:
                mailbox.post(lambda: gevent.killall(waiting, block=False))
        raise


def _tell(answer: Any, result: Any, error: BaseException | None) -> None:
    if answer.done():
        return
    if error is None:
        answer.set_result(result)
    elif isinstance(error, gevent.GreenletExit):
        answer.cancel()
    else:
        answer.set_exception(error)


_helpers: dict[int, Mailbox] = {}  # process id → the mailbox of its waiting thread
_allocate_lock, _start_new_thread = (
    get_original("_thread", name) for name in ("allocate_lock", "start_new_thread")
)
_making = _allocate_lock()


def _helper() -> Mailbox:
    """Return the mailbox of the thread that waits for programs without a hub; started at the first call."""
    with _making:
        made = _helpers.get(os.getpid())
        if made is None:
            ready = _allocate_lock()
            ready.acquire()
            found: list[Mailbox] = []
            _start_new_thread(_serve, (found, ready))
            ready.acquire()
            made = _helpers[os.getpid()] = found[0]
        return made


def _serve(found: list[Mailbox], ready: Any) -> None:
    mailbox = Mailbox.of(get_hub())
    mailbox.keep_alive()
    found.append(mailbox)
    ready.release()
    get_hub().join()  # for as long as the process: keep_alive() never ends
