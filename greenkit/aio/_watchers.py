"""Callbacks for each asyncio task made on the long-lived loop; loads no asyncio."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["task_watchers", "watch_tasks"]

task_watchers: list[Callable[[Any], object]] = []


def watch_tasks(watcher: Callable[[Any], object]) -> Callable[[], None]:
    """Call `watcher(task)` with each asyncio task made on the loop of `run()`; return what ends it.

    Not called for the task of a coroutine that `run()` waits for, only for tasks that may outlive their
    creator. Called on the loop, in the creator's context: it must not wait and must not raise.

    Switches: never.
    """
    if watcher not in task_watchers:
        task_watchers.append(watcher)

    def unwatch() -> None:
        if watcher in task_watchers:
            task_watchers.remove(watcher)

    return unwatch
