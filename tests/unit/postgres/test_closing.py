"""Seeing a server off: it is over when the other end hangs up, and not before."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import gevent
import pytest
from gevent.event import Event

from greenkit.postgres import _closing
from greenkit.wait import Deadline


@pytest.fixture
def line() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_hanging_up_waits_for_the_other_end(line) -> None:
    """`close_and_wait()` says goodbye and returns when the other end has closed, not when ours has."""
    ours, theirs = line
    order = []

    def part() -> None:
        _closing.close_and_wait(ours.fileno(), send_terminate=True, cooperative=True, grace=30.0)
        order.append("parted")

    parting = gevent.spawn(part)
    gevent.sleep(0)
    gevent.sleep(0)
    order.append("still there")
    assert theirs.recv(100) == b"X\x00\x00\x00\x04"
    theirs.close()
    parting.join()
    assert order == ["still there", "parted"]


def test_a_kill_while_hanging_up_comes_after_it(line) -> None:
    """A second interrupt does not give the slot back while the server still has its process."""
    ours, theirs = line
    order = []

    def part() -> None:
        try:
            _closing.close_and_wait(ours.fileno(), send_terminate=False, cooperative=True, grace=30.0)
        finally:
            order.append("parted")

    parting = gevent.spawn(part)
    gevent.sleep(0)
    parting.kill(block=False)
    gevent.sleep(0)
    assert not parting.dead
    order.append("killed")
    theirs.close()
    parting.join()
    assert order == ["killed", "parted"]
    assert isinstance(parting.value, gevent.GreenletExit)


def test_of_two_interrupts_a_kill_is_the_one_that_counts() -> None:
    """A `gevent.Timeout` after a kill does not turn the kill into something that is swallowed."""
    over = Event()

    def work() -> None:
        with gevent.Timeout(60.0, False):
            _closing.run_uninterrupted(over.wait, Deadline.after(30.0))

    worker = gevent.spawn(work)
    gevent.sleep(0)
    for interrupt in (gevent.GreenletExit(), gevent.Timeout(1.0)):
        worker.kill(interrupt, block=False)
        gevent.sleep(0)
    over.set()
    worker.join()
    assert isinstance(worker.value, gevent.GreenletExit)


def test_a_severed_line_is_readable_at_once(line) -> None:
    """`shut_down()` needs nothing of the driver, and the look before lending sees it."""
    ours, theirs = line
    look = _closing.poller(ours.fileno())
    assert not look.poll(0)
    _closing.shut_down(theirs.fileno())
    assert look.poll(0)
