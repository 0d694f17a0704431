from __future__ import annotations

import itertools
import random

import pytest

from greenkit.limits._queue import BATCH, MOST_AHEAD, NORMAL, RETRY, Queue, Waiter, lane_of


class Bell:
    hub = None
    gone = False


def waiter(lane=NORMAL, cost=1.0, until=float("inf")):
    return Waiter((cost,), lane=lane, until=until, parker=Bell())


def test_retry_goes_before_normal_and_normal_before_batch():
    """Whoever came first goes first only within its lane."""
    queue = Queue(1)
    came = [waiter(BATCH), waiter(NORMAL), waiter(RETRY), waiter(NORMAL)]
    for one in came:
        queue.add(one)
    order = []
    while (head := queue.head()) is not None:
        order.append(came.index(head))
        queue.grant(head)
    assert order == [2, 1, 3, 0]


def test_no_lane_starves():
    """However many come before them, the lowest lane has every ninth grant, and the one above shares."""
    queue = Queue(1)
    for lane in (BATCH, NORMAL):
        for _ in range(20):
            queue.add(waiter(lane))
    granted = []
    for _ in range(200):
        queue.add(waiter(RETRY))
        head = queue.head()
        granted.append(head.lane)
        queue.grant(head)
    for lane, longest in ((NORMAL, MOST_AHEAD + 3), (BATCH, MOST_AHEAD + 1)):
        places = [place for place, one in enumerate(granted) if one == lane]
        gaps = [later - earlier for earlier, later in itertools.pairwise(places)]
        assert len(places) == 20
        assert max(gaps) == longest, gaps


def test_a_line_agrees_with_a_list():
    """Adding, leaving, expiring and granting at random: the same as in a model of plain lists."""
    for seed in range(200):
        rng = random.Random(seed)
        queue, model, now = Queue(1), [], 0.0
        for _ in range(120):
            now += rng.random()
            what = rng.random()
            if what < 0.5:
                one = waiter(rng.choice([RETRY, NORMAL, BATCH]), rng.random(), now + rng.choice([1, 5, 1e9]))
                queue.add(one)
                model.append(one)
            elif what < 0.7 and model:
                gone = model.pop(rng.randrange(len(model)))
                queue.remove(gone)
                queue.remove(gone)
            elif what < 0.8:
                while (late := queue.expired(now)) is not None:
                    assert late.until <= now
                    model.remove(late)
                assert all(one.until > now for one in model)
            elif model:
                head = queue.head()
                first = next(one for one in model if one.lane == head.lane)
                assert head is first
                queue.grant(head)
                model.remove(head)
            assert queue.waiting == len(model)
            assert set(queue) == set(model)
            assert queue.next_expiry() == min((one.until for one in model), default=float("inf"))
            assert queue.ahead(RETRY)[0] == pytest.approx(
                sum(one.costs[0] for one in model if one.lane == RETRY), abs=1e-9
            )


def test_those_who_left_cost_no_memory():
    """Ten thousand that gave up behind one long wait are not kept."""
    queue = Queue(1)
    queue.add(waiter())
    for _ in range(10_000):
        one = waiter(until=5.0)
        queue.add(one)
        queue.remove(one)
    assert len(queue._lanes[NORMAL]) < 200
    assert len(queue._times) < 200


def test_whoever_waits_in_a_dead_thread_is_forgotten():
    """Its hub runs nothing any more, so the turn goes to the next."""
    queue = Queue(1)
    dead, alive = waiter(), waiter()
    dead.parker = type("Dead", (), {"hub": None, "gone": True})()
    queue.add(dead)
    queue.add(alive)
    assert queue.head() is alive
    assert queue.waiting == 1


def test_a_priority_has_a_name():
    """A typing mistake names the three there are."""
    assert [lane_of(name) for name in ("retry", "normal", "batch")] == [RETRY, NORMAL, BATCH]
    with pytest.raises(ValueError, match="'retry', 'normal', 'batch'"):
        lane_of("urgent")
