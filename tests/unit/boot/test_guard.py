from __future__ import annotations

import gc
import threading
from importlib import metadata
from types import FunctionType

import pytest

from greenkit.boot._events import Guard


class Proxy:
    """A lazy proxy: whoever asks for its class wakes it."""

    woken = 0

    @property
    def __class__(self):
        Proxy.woken += 1
        return int


def called_from(module, function):
    """Return a function that calls `function` as if it were written in `module`."""

    def template(*args, **kwargs):
        return function()(*args, **kwargs)

    return FunctionType(
        template.__code__, {"__name__": module, "function": function}, closure=template.__closure__
    )


def test_gevent_sees_only_locks():
    """The walk gets every lock gevent looks for and no proxy it would wake."""
    lock, proxy = threading.RLock(), Proxy()
    walk = called_from("gevent.monkey._patch_thread_common", lambda: gc.get_objects)
    Proxy.woken = 0
    everything = gc.get_objects()
    # Only these two are asked for their class: other tests leave lazy objects that must not wake.
    assert [isinstance(o, type(lock)) for o in everything if o is lock or o is proxy].count(True) > 0
    assert Proxy.woken > 0, "the unguarded walk wakes nothing, so this test proves nothing"
    Proxy.woken = 0
    with Guard():
        seen = [o for o in walk() if isinstance(o, type(lock))]
    assert any(o is lock for o in seen)
    assert Proxy.woken == 0
    assert proxy is not None


def test_others_get_the_real_answer():
    """Anybody but gevent sees every object while the guard is up."""
    proxy = Proxy()
    with Guard():
        assert any(o is proxy for o in gc.get_objects())


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_both_functions_come_back(error):
    """Whatever leaves the block, the functions are the ones that were there."""
    before = gc.get_objects, metadata.entry_points
    try:
        with Guard():
            assert (gc.get_objects, metadata.entry_points) != before
            if error is not None:
                raise error
    except (ValueError, KeyboardInterrupt):
        pass
    assert (gc.get_objects, metadata.entry_points) == before


def test_an_abandoned_guard_takes_itself_away():
    """Armed by gevent's event and left by an exception, it is gone at the first call after."""
    before = gc.get_objects
    guard = Guard()
    guard.arm()
    gc.get_objects()
    assert gc.get_objects is before
    assert not guard.armed


def test_a_replacement_made_meanwhile_is_respected():
    """Somebody who replaced the function during the patch keeps their replacement."""
    before = gc.get_objects
    guard = Guard()
    try:
        guard.arm()
        gc.get_objects = theirs = list
        guard.disarm()
        assert gc.get_objects is theirs
    finally:
        gc.get_objects = before


def test_distributions_are_scanned_once(monkeypatch):
    """However often gevent asks for entry points, the disk is read once."""
    scans = []
    real = metadata.distributions
    monkeypatch.setattr(metadata, "distributions", lambda **kw: scans.append(1) or real(**kw))
    ask = called_from("gevent.events", lambda: metadata.entry_points)
    group = "gevent.plugins.monkey.will_patch_all"
    expected = {point.value for point in metadata.entry_points(group=group)}
    scans.clear()
    with Guard():
        answers = [{point.value for point in ask(group=group)} for _ in range(25)]
        assert ask(group="nobody.has.this") is not None
    assert len(scans) == 1
    assert all(answer == expected for answer in answers)


def test_arming_twice_is_arming_once():
    """An event of gevent finds the guard up when we patch ourselves, and leaves it alone."""
    before = gc.get_objects
    guard = Guard()
    assert guard.arm()
    assert not guard.arm()
    guard.disarm()
    guard.disarm()
    assert gc.get_objects is before
