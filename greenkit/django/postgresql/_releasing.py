"""Cursors whose end gives the connection back: `OPTIONS["pool"]["release_between_queries"]`."""

from __future__ import annotations

from functools import cache
from typing import Any

__all__ = ["releasing"]


def releasing(cursor: Any, wrapper: Any) -> Any:
    """Return `cursor`, one of Django's, that has `wrapper` release its connection when it is closed."""
    kind: Any = type(cursor)  # Any: mypy thinks classes unhashable
    cursor.__class__ = _kind(kind)
    cursor.gk_wrapper = wrapper
    return cursor


@cache
def _kind(plain: Any) -> Any:
    class Releasing(plain):  # type: ignore[misc]
        def close(self) -> None:
            self.cursor.close()
            self.gk_wrapper.release()

    Releasing.__name__ = plain.__name__
    Releasing.__qualname__ = plain.__qualname__
    return Releasing
