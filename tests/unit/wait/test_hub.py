"""The hub itself never waits: it is told so, or the work is left to somebody else."""

from __future__ import annotations

import gevent
import pytest
from gevent.exceptions import BlockingSwitchOutError

from greenkit.limits import Limiter
from greenkit.postgres import _closing
from greenkit.wait import Deadline, FdWatch, WaitLine


def in_the_hub(function):
    """Return what `function` returned or raised when the loop called it."""
    found = []

    def call():
        try:
            found.append(function())
        except BaseException as error:
            found.append(error)

    gevent.get_hub().loop.run_callback(call)
    gevent.sleep(0)
    gevent.sleep(0)
    (outcome,) = found
    return outcome


def wait_in_line():
    WaitLine(0).acquire(timeout=None)


def wait_for_permit():
    limiter = Limiter("a", concurrency=1)
    limiter.try_permit()
    limiter.permit().__enter__()


def wait_for_a_descriptor():
    FdWatch(0).wait_write(None)


@pytest.mark.parametrize("wait", [wait_in_line, wait_for_permit, wait_for_a_descriptor])
def test_a_wait_in_the_hub_is_refused(wait):
    """It would return at once as if it were over: a slot nobody granted, or a loop without end."""
    outcome = in_the_hub(wait)
    assert isinstance(outcome, BlockingSwitchOutError)
    assert "gevent.spawn" in str(outcome)


def test_a_clean_up_in_the_hub_is_left_to_the_caller():
    """It returns at once with nothing run, and the caller closes what it could not end."""
    ran = []
    assert (
        in_the_hub(lambda: _closing.run_uninterrupted(lambda: ran.append(1), Deadline.after(3600.0))) is None
    )
    assert ran == []
    _closing.run_uninterrupted(lambda: ran.append(1), Deadline.after(3600.0))
    assert ran == [1]
