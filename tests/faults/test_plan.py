"""A seed is a plan: the same each time, within its bounds, and with everything in it that can happen."""

from __future__ import annotations

import pytest

from tests.faults import faults
from tests.faults.plan import KINDS, MODES, WORKERS, make_plan


def plan(seed, **more):
    return make_plan(seed, **{"broker": "redis", "tasks": 3000, "seconds": 75.0, **more})


def test_the_same_seed_is_the_same_plan():
    """Whatever was drawn before; another seed, and another broker, is another."""
    assert plan(1) == plan(1)
    assert plan(1).faults != plan(2).faults
    assert plan(1).faults != plan(1, broker="amqp").faults


def test_a_mode_or_the_rival_changes_no_fault():
    """So that they can be compared on one seed."""
    for other in (plan(1, mode="call"), plan(1, mode="limits"), plan(1, plain=True)):
        assert (other.faults, other.waves) == (plan(1).faults, plan(1).waves)


@pytest.mark.parametrize("broker", ["redis", "amqp"])
def test_twenty_seeds_hold_every_kind_of_fault_and_two_at_once(broker):
    """Each kind of the broker, none of the other's, every mode, and faults that overlap."""
    plans = [plan(seed, broker=broker) for seed in range(20)]
    drawn = {fault.kind for one in plans for fault in one.faults}
    assert drawn == {name for name, kind in KINDS.items() if kind.broker in ("", broker)}
    assert {one.mode for one in plans} == set(MODES)
    pairs = [(a, b) for one in plans for a, b in zip(one.faults, one.faults[1:], strict=False)]
    assert sum(b.at < a.at + a.seconds and a.target != b.target for a, b in pairs) > 50


def test_waves_send_every_task_once():
    """Half at the beginning, all by the end; a fault comes first for nobody."""
    for seed in range(20):
        one = plan(seed)
        assert sum(many for _, many in one.waves) == one.tasks
        assert one.waves[0] == (0.0, 1500)
        assert all(many > 0 for _, many in one.waves)
        assert all(0 < fault.at < one.seconds for fault in one.faults)


def test_faults_last_as_long_as_their_kind_says():
    """Within the bounds of the table, on a target that exists."""
    for fault in plan(3).faults:
        kind = KINDS[fault.kind]
        assert kind.shortest <= fault.seconds <= kind.longest
        assert fault.target in (WORKERS if kind.target == "worker" else (kind.target,))


def test_only_narrows_the_kinds():
    """And nothing else is drawn."""
    assert {fault.kind for fault in plan(1, only=("broker-cut",)).faults} == {"broker-cut"}


def test_every_kind_can_be_done():
    """Each has its function, documented."""
    for name in KINDS:
        assert getattr(faults, name.replace("-", "_")).__doc__
