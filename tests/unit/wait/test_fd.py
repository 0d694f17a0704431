"""Waiting for file descriptors."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import gevent
import pytest

from greenkit.errors import WaitTimeout
from greenkit.wait import FdWatch

if TYPE_CHECKING:
    from collections.abc import Iterator

# gevent defers closing a pipe to its hub; these tests count on the descriptor being gone.
from gevent.monkey import get_original

close = get_original("os", "close")


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Two ends of a pipe, closed afterwards."""
    ends = os.pipe()
    yield ends
    for end in ends:
        close(end)


def test_a_reader_wakes_when_something_arrives(pipe: tuple[int, int]) -> None:
    """Other greenlets run meanwhile, and data ends the wait, again and again."""
    reader, writer = pipe
    watch = FdWatch(reader)
    for _ in range(3):
        gevent.spawn(os.write, writer, b"x")
        watch.wait_read(5.0)
        assert os.read(reader, 1) == b"x"
    watch.close()


def test_a_writable_end_returns_at_once(pipe: tuple[int, int]) -> None:
    """An empty pipe can be written."""
    watch = FdWatch(pipe[1])
    watch.wait_write(5.0)
    watch.close()


def test_silence_ends_in_a_timeout_and_the_watch_stays_good(pipe: tuple[int, int]) -> None:
    """A timeout says which descriptor and how long; a later wait works."""
    reader, writer = pipe
    watch = FdWatch(reader)
    with pytest.raises(WaitTimeout, match=rf"file descriptor {reader} was not readable within 0.001 s"):
        watch.wait_read(0.001)
    os.write(writer, b"x")
    watch.wait_read(5.0)
    watch.close()


def test_a_killed_reader_leaves_no_switch_behind(pipe: tuple[int, int]) -> None:
    """Data that arrives with the kill does not wake the greenlet in its next wait."""
    reader, writer = pipe
    watch = FdWatch(reader)
    woken_early = []

    def read_then_wait() -> None:
        try:
            watch.wait_read(None)
        except gevent.GreenletExit:
            woken_early.append(gevent.sleep(0.002) is not None)

    victim = gevent.spawn(read_then_wait)
    gevent.sleep(0)
    os.write(writer, b"x")
    victim.kill()
    watch.close()
    assert woken_early == [False]


def test_closing_the_watch_ends_a_wait(pipe: tuple[int, int]) -> None:
    """Whoever waits gets an `OSError` at once; of the closed descriptor the hub would never tell."""
    watch = FdWatch(pipe[0])
    waiting = gevent.spawn(watch.wait_read, 30.0)
    gevent.sleep(0)
    assert not waiting.dead, "the race under test never happened"
    watch.close()
    with pytest.raises(OSError, match="was closed during"):
        waiting.get(timeout=5)


def test_either_way_ends_the_wait(pipe: tuple[int, int]) -> None:
    """One that can be written to is ready though nothing can be read."""
    watch = FdWatch(pipe[1])
    watch.wait_either(5.0)
    watch.close()
