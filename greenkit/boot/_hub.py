"""Learn of a thread's hub when the program makes it, without making it.

A hub makes its loop, and the loop's clock stands still until the loop first turns. A hub made before the
program needs it lets the program's first timers count from that moment, and fire early.
"""

from __future__ import annotations

import functools
from _thread import get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["on_hub", "on_turn"]

_waiting: dict[int, list[Callable[[Any], None]]] = {}


def on_hub(callback: Callable[[Any], None], /) -> Callable[[], None]:
    """Call `callback(hub)` when the calling thread's hub is made, at once when it is there already.

    At that moment the hub has its loop, and `gevent.get_hub()` does not know it yet. The callback must not
    raise. gevent must be imported.

    Returns:
        A function that forgets the callback.

    Switches: never.
    """
    # Late: this room is loaded before gevent.
    from gevent._hub_local import get_hub_if_exists

    hub = get_hub_if_exists()
    if hub is not None:
        callback(hub)
        return lambda: None
    thread = get_ident()
    _waiting.setdefault(thread, []).append(callback)
    _wrap()

    def forget() -> None:
        callbacks = _waiting.get(thread, [])
        if callback in callbacks:
            callbacks.remove(callback)

    return forget


def on_turn(hub: Any, callback: Callable[[], None], /) -> Callable[[], None]:
    """Call `callback()` when `hub` next turns, before what the program has waiting for that turn.

    A callback of the loop would count as something that waits for the hub (`loop.activecnt`): a program
    that looks would see us, and a hub without work of its own would go on.

    Returns:
        A function that forgets the callback; only the hub's thread may call it.

    Switches: never.
    """
    watcher = hub.loop.prepare(ref=False, priority=hub.loop.MAXPRI)

    def forget() -> None:
        watcher.stop()
        watcher.close()

    def turn() -> None:
        forget()
        callback()

    watcher.start(turn)
    return forget


def _wrap() -> None:
    # Late: see on_hub().
    from gevent.hub import Hub

    original = Hub.__init__
    if hasattr(original, "greenkit"):
        return

    @functools.wraps(original)
    def init(hub: Any, *args: Any, **options: Any) -> None:
        original(hub, *args, **options)
        callbacks = _waiting.pop(get_ident(), [])
        if not _waiting and Hub.__init__ is init:
            Hub.__init__ = original
        for callback in callbacks:
            callback(hub)

    init.greenkit = True  # type: ignore[attr-defined]
    Hub.__init__ = init
