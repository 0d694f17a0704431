"""One alias's pool, with the verbs Django's wrapper expects beside psycopg_pool's."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from greenkit.postgres import ConnectionPool

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["AliasPool"]


class AliasPool(ConnectionPool[Any]):
    """Lend the connections of one database alias.

    Django's wrappers live and die with their greenlet, so a connection that comes back because
    its greenlet ended has no other user: it is lent again instead of closed. Unless the wrapper
    was told that other greenlets may use it (`inc_thread_sharing()`, as live server tests do).
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        *,
        check: Callable[[Any], object] | None = None,
        reset: Callable[[Any], object] | None = None,
        release_between_queries: bool = False,
        **options: Any,
    ) -> None:
        self._resets = reset is not None
        self.release_between_queries = release_between_queries
        ready = _in_autocommit(reset)
        super().__init__(connect, check=check, reset=ready, reuse_taken_back=True, **options)
        self._check = check  # where psycopg_pool has it, and Django looks
        self._wrappers: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()

    def open(self) -> None:
        """Do nothing: Django opens pools, ours opens connections when they are needed."""

    def lend_to(self, wrapper: Any, conn: Any) -> None:
        """Note whose connection `conn` is now."""
        self._wrappers[id(conn)] = wrapper

    def is_cleaned_by_reset(self) -> bool:
        """Tell whether the settings name a `reset`: Django's autocommit clears nothing."""
        return self._resets

    def is_lent_for_good(self, conn: Any) -> bool:
        """Tell whether `conn` outlives its borrower: others were given its wrapper."""
        wrapper = self._wrappers.get(id(conn))
        return wrapper is not None and wrapper.connection is conn and wrapper.allow_thread_sharing


def _in_autocommit(reset: Any) -> Callable[[Any], None]:
    """Return what gives a connection back in autocommit, as Django expects it, after the user's `reset`."""
    if reset is None:
        return _to_autocommit
    if not callable(reset):
        msg = f"reset is {reset!r}; it must be a function that takes a connection, or None"
        raise TypeError(msg)

    def reset_and_commit(conn: Any) -> None:
        _to_autocommit(conn)
        reset(conn)
        _to_autocommit(conn)

    return reset_and_commit


def _to_autocommit(conn: Any) -> None:
    if not conn.autocommit:
        conn.autocommit = True
