"""The defects of `gevent.pool` themselves: each is still there, and so is the reason for the test beside it.

Every test here has its counterpart in test_defects.py. One that fails says that gevent does better now.
"""

from __future__ import annotations

import itertools

import gevent
import pytest
from gevent.event import Event
from gevent.pool import Pool

from tests.unit.pool.test_defects import Work, settle_down


@pytest.fixture(autouse=True)
def _end_what_gevent_leaves():
    """End the feeders and children of the test: they would run on during later ones."""
    before = {id(greenlet) for greenlet in _greenlets()}
    yield
    while left := [greenlet for greenlet in _greenlets() if id(greenlet) not in before]:
        gevent.killall(left)


def test_map_with_one_failing_item_goes_on_with_the_others():
    """The error reaches the caller, and everything else runs all the same."""
    work, pool = Work(fails={2}), Pool(4)
    with pytest.raises(ValueError, match="2"):
        pool.map(work, range(100))
    pool.join()
    assert len(work.begun) == 100


def test_a_delivered_error_is_printed_all_the_same(capsys):
    """The caller caught it, and it is on standard error too."""
    with pytest.raises(ValueError):
        Pool(4).map(Work(fails={0}), range(3))
    assert "ValueError: 0" in capsys.readouterr().err


def test_imap_on_an_endless_source_pulls_without_end():
    """A consumer that has taken one item has had hundreds read."""
    pulled, pool = itertools.count(), Pool(5)
    results = pool.imap_unordered(Work(), pulled)
    next(results)
    for _ in range(20):
        settle_down()
    assert next(pulled) > 200
    results.kill()
    pool.kill()


def test_leaving_the_loop_early_leaves_the_feeder_at_work():
    """After `break` items are still read and begun."""
    work, pool = Work(), Pool(5)
    for _ in pool.imap_unordered(work, itertools.count()):
        break
    begun = len(work.begun)
    settle_down()
    settle_down()
    assert len(work.begun) > begun
    leftovers = [one for one in _greenlets() if "IMap" in type(one).__name__]
    assert leftovers
    gevent.killall(leftovers)
    pool.kill()


def test_a_caller_of_map_that_dies_leaves_its_children():
    """The owner is killed; what it started goes on."""
    work, pool = Work(turns=200), Pool(5)
    caller = gevent.spawn(pool.map, work, range(100))
    settle_down()
    caller.kill()
    assert work.alive > 0
    gevent.killall([one for one in _greenlets() if "Map" in type(one).__name__])
    pool.kill()


def test_a_killed_worker_is_a_value():
    """map() returns the GreenletExit object among the results."""

    def suicide(item):
        if item == 1:
            gevent.getcurrent().kill()
        return item

    results = Pool(2).map(suicide, range(3))
    assert isinstance(results[1], gevent.GreenletExit)


def test_spawn_inside_a_full_pool_waits_for_itself():
    """A child that spawns and waits in a full pool waits for ever."""
    pool = Pool(1)
    with gevent.Timeout(0.05), pytest.raises(gevent.Timeout):
        pool.spawn(lambda: pool.spawn(Event().set).get()).get()
    pool.kill(block=False)
    settle_down()


def test_the_item_of_an_error_is_unknown():
    """One can go on after an error, and cannot tell which item it was."""
    pool = Pool(4)
    results, errors = pool.imap_unordered(Work(fails={3}), range(6)), []
    while True:
        try:
            next(results)
        except StopIteration:
            break
        except ValueError as error:
            errors.append(error)
    [error] = errors
    assert not hasattr(error, "item")


def test_context_variables_are_not_inherited():
    """A child sees the default, whatever its maker had set."""
    from tests.unit.pool.test_defects import variable

    token = variable.set("owner")
    try:
        assert Pool(2).map(lambda _: variable.get(), range(2)) == ["none", "none"]
    finally:
        variable.reset(token)


def _greenlets():
    import gc

    return [one for one in gc.get_objects() if issubclass(type(one), gevent.Greenlet) and not one.dead]
