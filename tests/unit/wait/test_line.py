"""What a `WaitLine` promises to those who stand in it."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import gevent
import pytest
from gevent import monkey

from greenkit.errors import WaitTimeout
from greenkit.wait import Mailbox, WaitLine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from _typeshed import TraceFunction


def stand_in(line: WaitLine, order: list[int], number: int, *, timeout: float | None = None) -> None:
    line.acquire(timeout=timeout)
    order.append(number)


def test_waiters_are_served_in_the_order_they_came() -> None:
    """Slots go to the longest waiter, one release each."""
    line = WaitLine(0)
    order: list[int] = []
    crowd = [gevent.spawn(stand_in, line, order, number) for number in range(50)]
    gevent.sleep(0)
    line.resize(50)
    gevent.joinall(crowd)
    assert order == list(range(50))


def test_a_late_comer_does_not_overtake_a_promised_slot() -> None:
    """A slot released while somebody waits cannot be taken by somebody who did not."""
    line = WaitLine(1)
    line.acquire(timeout=0)
    order: list[int] = []
    waiter = gevent.spawn(stand_in, line, order, 1)
    gevent.sleep(0)
    line.release()
    assert not line.acquire_nowait(), "the slot was promised and taken twice"
    waiter.join()
    assert order == [1]


def test_a_timeout_names_the_line_and_holds_nothing() -> None:
    """A wait that runs out says how full the line is and leaves the queue as it was."""
    line = WaitLine(1, name="db")
    line.acquire(timeout=0)
    with pytest.raises(WaitTimeout, match=r"no slot of 'db' .* within 0.001 s: 1 of 1 in use"):
        line.acquire(timeout=0.001)
    assert line.statistics().waiting == 0
    line.release()
    assert line.acquire_nowait()


def test_a_timeout_of_nothing_does_not_queue() -> None:
    """A timeout of 0 or less answers at once."""
    line = WaitLine(0)
    with pytest.raises(WaitTimeout):
        line.acquire(timeout=0)
    with pytest.raises(WaitTimeout):
        line.acquire(timeout=-1)


def test_growing_wakes_waiters_at_once() -> None:
    """Resize hands new slots to those who wait."""
    line = WaitLine(0)
    order: list[int] = []
    crowd = [gevent.spawn(stand_in, line, order, number) for number in range(3)]
    gevent.sleep(0)
    line.resize(2)
    gevent.joinall(crowd[:2])
    assert (order, line.statistics().waiting) == ([0, 1], 1)
    crowd[2].kill()


def test_shrinking_below_what_is_in_use_waits_for_releases() -> None:
    """After a shrink nobody gets in until enough holders have left."""
    line = WaitLine(3)
    for _ in range(3):
        line.acquire(timeout=0)
    line.resize(1)
    seen = line.statistics()
    assert (seen.size, seen.free, seen.in_use) == (1, -2, 3)
    line.release()
    line.release()
    assert not line.acquire_nowait()
    line.release()
    assert line.acquire_nowait()


def test_releasing_twice_is_refused() -> None:
    """A second release of one slot is an error, not a larger line."""
    line = WaitLine(1)
    with pytest.raises(RuntimeError, match="without acquire"):
        line.release()
    assert line.statistics().free == 1


@pytest.mark.parametrize("size", [-1, 1.5, "2", None])
def test_a_size_that_is_no_number_of_slots_is_refused(size: object) -> None:
    """Only whole numbers from 0 make a line, when made and when resized."""
    with pytest.raises(ValueError, match="whole number of slots"):
        WaitLine(size)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="whole number of slots"):
        WaitLine(1).resize(size)  # type: ignore[arg-type]


def test_the_slot_comes_back_when_the_block_fails() -> None:
    """`with line.slot()` releases on any exception, GreenletExit included."""
    line = WaitLine(1)
    with pytest.raises(gevent.GreenletExit), line.slot(timeout=0):
        raise gevent.GreenletExit
    assert line.statistics().free == 1


def test_the_repr_tells_free_and_waiting() -> None:
    """Printing a line answers the question one has at three in the morning."""
    line = WaitLine(8, name="db")
    line.acquire(timeout=0)
    assert repr(line) == "<WaitLine 'db' 7/8 free, 0 waiting>"


def test_gevent_timeout_leaves_the_queue() -> None:
    """A `gevent.Timeout` around a wait is no ghost in the queue that eats a slot."""
    line = WaitLine(1)
    line.acquire(timeout=0)
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.001):
        line.acquire(timeout=None)
    line.release()
    assert line.acquire_nowait()


def test_a_forked_child_starts_with_the_waiters_it_really_has() -> None:
    """After fork the line works in the child, and the parent's is untouched."""
    line = WaitLine(1)
    line.acquire(timeout=0)
    child = os.fork()
    if child == 0:
        line.release()
        os._exit(0 if line.acquire_nowait() else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert line.statistics().in_use == 1


@pytest.mark.parametrize("timeout", [None, 30.0])
def test_a_wait_for_another_threads_slot_lasts_until_it_comes(timeout: float | None) -> None:
    """A hub with nothing else to do does not give up on a slot that another thread holds."""
    line = WaitLine(1)
    line.acquire(timeout=0)
    ended: list[object] = []

    def wait_alone() -> None:
        try:
            gevent.spawn(line.acquire, timeout=timeout).get()
            ended.append("has it")
        except BaseException as error:
            ended.append(error)
        gevent.get_hub().destroy(destroy_loop=True)
        finished.release()

    finished = monkey.get_original("_thread", "allocate_lock")()
    finished.acquire()
    native_sleep = monkey.get_original("time", "sleep")
    monkey.get_original("_thread", "start_new_thread")(wait_alone, ())
    while not line.statistics().waiting and not ended:
        native_sleep(0.001)
    native_sleep(0.05)  # its hub finds that it has nothing else to do
    line.release()
    assert finished.acquire(timeout=30)
    assert ended == ["has it"]


def test_a_slot_does_not_go_to_a_thread_that_has_ended() -> None:
    """Whoever waited in a thread that is no more is passed over, and the next has the slot."""
    line = WaitLine(1)
    line.acquire(timeout=0)
    finished = monkey.get_original("_thread", "allocate_lock")()
    finished.acquire()
    left = []

    def leave_a_waiter() -> None:
        left.append(gevent.spawn(line.acquire, timeout=30.0))
        gevent.sleep(0)
        gevent.get_hub().destroy(destroy_loop=True)
        finished.release()

    monkey.get_original("_thread", "start_new_thread")(leave_a_waiter, ())
    assert finished.acquire(timeout=30)
    assert line.statistics().waiting == 1, "the moment under test never came"
    order: list[int] = []
    gevent.spawn(stand_in, line, order, 1)
    gevent.sleep(0)
    line.release()
    gevent.sleep(0)
    assert order == [1]


@contextmanager
def striking(code: object, number: int) -> Iterator[None]:
    """Raise KeyboardInterrupt before the line of that number, counted from 1, that `code` runs."""
    lines = 0

    def at_line(frame: FrameType, event: str, _: object) -> TraceFunction | None:
        nonlocal lines
        if frame.f_code is not code:
            return None
        lines += event == "line"
        if event == "line" and lines == number:
            raise KeyboardInterrupt
        return at_line

    before = sys.gettrace()
    sys.settrace(at_line)
    try:
        yield
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("timeout", [None, 5.0])
def test_ctrl_c_on_the_way_to_a_wait_lets_go_of_nobody_else(timeout: float | None) -> None:
    """What keeps the hub alive for other waiters stays, whichever line of the wait is struck."""
    mailbox = Mailbox.of(gevent.get_hub())
    mailbox.keep_alive()
    try:
        for number in range(1, 5):  # the lines before the switch
            with pytest.raises(KeyboardInterrupt), striking(WaitLine._park.__code__, number):
                WaitLine(0).acquire(timeout=timeout)
            assert mailbox._keepers >= 1, f"struck at line {number}"
    finally:
        mailbox.let_go()
