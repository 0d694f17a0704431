"""Native threads for what would stop the hub: bounded, with a deadline, and honest about what runs on."""

from __future__ import annotations

import contextvars

import gevent
import pytest
from gevent.monkey import get_original

from greenkit import NativePool, offload, offloaded
from greenkit.errors import WaitTimeout

allocate_lock = get_original("_thread", "allocate_lock")
get_ident = get_original("_thread", "get_ident")


@pytest.fixture
def held():
    """A native lock that a function of a test waits for."""
    lock = allocate_lock()
    lock.acquire()
    yield lock
    if lock.locked():
        lock.release()


def wait_for(lock, value=None):
    with lock:
        return value


def settle(pool):
    """Give native threads the time to say that they ended."""
    with gevent.Timeout(5):
        while pool.statistics().running:
            gevent.sleep(0.001)


def test_it_runs_in_another_native_thread_and_answers():
    """What the function returns comes back, and the hub's thread did not run it."""
    assert offload(divmod, 7, 2) == (3, 1)
    assert offload(get_ident) != get_ident()


def test_other_greenlets_go_on_meanwhile(held):
    """The function ends because a greenlet lets it: the hub was not stopped."""
    gevent.spawn(held.release)
    assert offload(wait_for, held, "ended", timeout=30) == "ended"


def test_an_exception_arrives_as_it_was_raised():
    """Also SystemExit, which would end a thread of its own."""
    with pytest.raises(ZeroDivisionError):
        offload(divmod, 1, 0)

    def leave():
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        offload(leave)


def test_context_variables_go_in():
    """The thread sees the caller's context, not an empty one."""
    variable = contextvars.ContextVar("variable", default="unset")
    variable.set("set")
    assert offload(variable.get) == "set"


def test_a_timeout_says_that_the_function_runs_on(held):
    """The caller goes on; the thread is counted as abandoned until it ends, and then is free again."""
    pool = NativePool(2)
    with pytest.raises(WaitTimeout, match=r"wait_for did not end in time.*keeps 1 of the 2 threads"):
        pool.run(wait_for, held, timeout=0.01)
    assert (pool.statistics().running, pool.statistics().abandoned) == (1, 1)
    held.release()
    settle(pool)
    assert pool.statistics().abandoned == 0
    assert pool.statistics().finished == 1


def test_a_killed_caller_leaves_its_thread_counted(held):
    """A kill while the thread works gives the place back only when the thread ends."""
    pool = NativePool(1)
    caller = gevent.spawn(pool.run, wait_for, held)
    with gevent.Timeout(5):
        while not pool.statistics().running:
            gevent.sleep(0.001)
    caller.kill()
    assert (pool.statistics().running, pool.statistics().abandoned) == (1, 1)
    held.release()
    settle(pool)
    assert pool.run(len, "ab") == 2


def test_callers_beyond_the_size_wait_in_order(held):
    """A third call waits for a place, and its timeout holds there, too."""
    pool = NativePool(1)
    first = gevent.spawn(pool.run, wait_for, held)
    gevent.sleep(0)
    with pytest.raises(WaitTimeout):
        pool.run(len, "", timeout=0.01)
    assert pool.statistics().waiting == 0
    held.release()
    first.join()
    assert pool.run(len, "abc", timeout=30) == 3


def test_a_function_may_have_threads_of_its_own(held):
    """`concurrency` bounds the calls of one function; options pass through."""

    @offloaded(concurrency=1, timeout=30)
    def busy(value, *, plus=0):
        return value + plus

    assert busy(1, plus=2) == 3
    assert busy.__name__ == "busy"

    @offloaded
    def plain():
        return "plain"

    assert plain() == "plain"


@pytest.mark.parametrize("size", [0, -1, True, 1.5, "4"])
def test_a_wrong_size_is_refused(size):
    """A pool without threads would wait for ever."""
    with pytest.raises(ValueError, match="a pool needs 1 thread or more"):
        NativePool(size)


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf")])
def test_a_wrong_timeout_is_refused(timeout):
    """Before anything runs."""
    with pytest.raises(ValueError, match="timeout is"):
        offload(len, "", timeout=timeout)


def test_what_cannot_be_called_is_refused():
    """A coroutine or a result in place of the function is the usual mistake."""
    with pytest.raises(TypeError, match="takes a function and its arguments"):
        offload(3)
