"""Two workers under a short seed of faults of everything around them: every promise of a worker holds.

`./dev chaos` runs seeds at length.
"""

from __future__ import annotations

import pytest

from tests.faults import report
from tests.faults.driver import carry_out
from tests.faults.plan import make_plan

SEEDS = [1, 2]


def short(seed, broker):
    """A plan of half a minute: fewer tasks, and what a killed worker held comes back sooner."""
    return make_plan(seed, broker=broker, tasks=250, seconds=10.0, visibility=12.0, concurrency=30)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_lost_on_redis(seed, tmp_path, greenkit_valkey, greenkit_postgres):
    """No row lost, none twice without its reason, no worker ended by itself, nothing left."""
    result = carry_out(short(seed, "redis"), tmp_path)
    assert result.verdict.passed, report.failure(result)
    assert len(result.evidence.blows) > 3, "hardly anything happened"


@pytest.mark.timeout(240)
@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_lost_on_rabbitmq(seed, tmp_path, needs_rabbitmq, greenkit_postgres):
    """The same on RabbitMQ."""
    result = carry_out(short(seed, "amqp"), tmp_path)
    assert result.verdict.passed, report.failure(result)
    assert len(result.evidence.blows) > 3, "hardly anything happened"
