"""What the attendant of shared budgets keeps alive."""

from __future__ import annotations

import gc
import math
import weakref

import gevent

from greenkit.limits._sync import Sync


class Gone:
    """A wire whose backend never answers."""

    def ask(self, asked):
        raise ConnectionError("nobody there")

    def close(self):
        pass


class Waiting:
    """A budget that has something to say, and then asks after its backend every now and then."""

    record = "test"

    def __init__(self):
        self.told = 0

    def wants(self):
        return 0.0 if not self.told else 3600.0

    def compose(self):
        return None

    def lost(self, error):
        self.told += 1


def test_a_budget_nobody_uses_is_not_kept_for_a_backend_that_is_away():
    """It is heard while somebody holds it; dropped, it goes, though its backend never came back."""
    agent = Sync(Gone)
    budget = Waiting()
    agent.serve(budget)
    while not budget.told:
        gevent.sleep(0)
    gevent.sleep(0)
    assert agent._due() == ([], 3600.0)
    gone = weakref.ref(budget)
    del budget
    gc.collect()
    assert gone() is None
    assert agent._due() == ([], math.inf)
    agent.abandon()
