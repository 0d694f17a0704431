from __future__ import annotations

import inspect

import pytest

from greenkit.boot import PLAN
from greenkit.boot._plan import arguments_for


def test_every_step_is_one_of_gevents():
    """Each step's name is an argument of `patch_all`, and each has a reason."""
    from gevent.monkey import patch_all

    arguments = inspect.signature(patch_all).parameters
    assert [step.name for step in PLAN if step.name not in arguments] == []
    assert all(step.reason.endswith(".") for step in PLAN)


def test_the_whole_plan_needs_no_arguments():
    """Celery patches again without arguments, and gevent warns when they differ."""
    assert arguments_for(None) == {}
    assert arguments_for(PLAN) == {}


def test_a_step_left_out_is_switched_off():
    """A shorter plan switches off exactly what it lacks."""
    assert arguments_for(step for step in PLAN if step.name != "dns") == {"dns": False}


def test_an_unknown_step_is_named():
    """A typing mistake is answered with the steps there are."""
    with pytest.raises(ValueError, match=r"no step sockets; the steps are .*socket"):
        arguments_for(["sockets"])
