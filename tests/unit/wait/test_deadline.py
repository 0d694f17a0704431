"""Deadlines are computed once and only ever shrink."""

from __future__ import annotations

import math

from greenkit.wait import Deadline


class Hands:
    """A clock whose hands the test moves."""

    time = 100.0

    def now(self) -> float:
        return self.time


def test_a_deadline_counts_down_and_stops_at_nothing() -> None:
    """What remains shrinks with the clock and is never negative."""
    clock = Hands()
    deadline = Deadline.after(2.0, clock=clock)
    assert (deadline.remaining(), deadline.expired) == (2.0, False)
    clock.time += 3.0
    assert (deadline.remaining(), deadline.timeout(), deadline.expired) == (0.0, 0.0, True)


def test_no_deadline_never_expires() -> None:
    """None means for ever, in every form it is asked."""
    deadline = Deadline.after(None)
    assert (deadline.remaining(), deadline.timeout(), deadline.expired) == (math.inf, None, False)


def test_the_earlier_of_two_deadlines_holds() -> None:
    """An enclosing deadline cannot be escaped by a later one."""
    clock = Hands()
    near, far = Deadline.after(1.0, clock=clock), Deadline.after(None, clock=clock)
    assert Deadline.earliest(near, far) is near
    assert Deadline.earliest(far, near) is near
