"""Look a name up once when many greenlets look it up at the same moment.

gevent looks names up in the hub's pool of 10 native threads: 200 first connections to one host, at
100 ms for a lookup, wait in its queue for 2 s (gevent 26.9, `resolver/thread.py`). Here the first greenlet
looks up and the others wait for its result. A later greenlet looks up anew, so no result is ever stale.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import gevent
from gevent import monkey
from gevent.event import AsyncResult

if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ["coalesce_lookups"]


def coalesce_lookups() -> bool:
    """Let greenlets of this thread that look up the same name at once share one lookup.

    `session()` and the clients of this package do it when they are opened. It serves whatever goes
    through `socket.getaddrinfo()`. Harmless when repeated. In a process whose sockets are not
    patched there is nothing to do.

    Returns:
        Whether lookups are shared now.

    Switches: never.
    """
    if not monkey.is_module_patched("socket"):
        return False
    hub = gevent.get_hub()
    if not isinstance(hub.resolver, _Coalescing):
        hub.resolver = _Coalescing(hub.resolver)
    return True


class _Coalescing:
    """Be the hub's resolver; only `getaddrinfo()` differs from the one inside."""

    def __init__(self, resolver: Any) -> None:
        self._resolver = resolver
        self._under_way: dict[Hashable, AsyncResult] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._resolver, name)

    def __repr__(self) -> str:
        """Show how many lookups are under way."""
        return f"<coalescing {self._resolver!r}, {len(self._under_way)} under way>"

    def getaddrinfo(self, *args: Any, **kwargs: Any) -> Any:
        """Look up as the resolver inside does, or wait for the greenlet that already looks up the same."""
        key = (args, tuple(sorted(kwargs.items())))
        answer = self._under_way.get(key)
        if answer is None:
            answer = self._under_way[key] = AsyncResult()
            # In a greenlet of its own: the first to ask may be killed, and others wait for it.
            gevent.spawn(self._look_up, key, partial(self._resolver.getaddrinfo, *args, **kwargs))
        found, error = answer.get()
        if error is not None:
            # A copy for each: one exception raised in many greenlets collects all their tracebacks.
            raise type(error)(*error.args)
        return list(found)

    def _on_fork(self) -> None:
        """Forget what only the parent's threads would have answered."""
        self._under_way.clear()
        getattr(self._resolver, "_on_fork", lambda: None)()

    def _look_up(self, key: Hashable, look_up: partial[Any]) -> None:
        answer: tuple[Any, BaseException | None]
        try:
            answer = (look_up(), None)
        except BaseException as error:  # a kill too: those who wait must hear of it
            answer = (None, error)
        self._under_way.pop(key).set(answer)
