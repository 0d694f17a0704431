"""Prove that a block of code never lets another greenlet run."""

from __future__ import annotations

import contextlib
import traceback
from typing import TYPE_CHECKING

import greenlet

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["assert_no_switch"]


@contextlib.contextmanager
def assert_no_switch() -> Iterator[None]:
    """Raise AssertionError at the end of the block if its greenlet was left and came back.

    For what promises `Switches: never`. It sees the switches of the calling thread only, and does not hide an
    exception of the block itself. Nests, and hands switches on to a trace function that was there before.

    Raises:
        AssertionError: A switch happened; the message holds the stack that left the greenlet.

    Switches: never
    """
    me = greenlet.getcurrent()
    left: list[str] = []
    previous = greenlet.gettrace()  # a trace function is its thread's own: no need to ask which one

    def trace(event: str, args: tuple[greenlet.greenlet, greenlet.greenlet]) -> None:
        if previous is not None:
            previous(event, args)
        origin, _target = args
        # "throw" too: a kill is a switch. The stack must be taken now; at the end it is gone.
        if origin is me and not left:
            frame = origin.gr_frame
            left.append(
                "".join(traceback.format_stack(frame)) if frame is not None else "(no Python frame)\n"
            )

    greenlet.settrace(trace)
    try:
        yield
    finally:
        greenlet.settrace(previous)
    if left:
        raise AssertionError(f"a block that must not switch greenlets did, from here:\n{left[0]}")
