"""A shared budget whose requests the test carries, so that every instant is in its hands."""

from __future__ import annotations

import gevent
import pytest

from greenkit.limits import _shared_budget
from greenkit.limits._protocol import MICRO, exchange


class Courier:
    """Carry requests one step at a time; `record` is what a store would keep."""

    def __init__(self, clock):
        self.clock = clock
        self.record = {}
        self.served = set()
        self.under_way = []
        self.away = False

    def serve(self, budget):
        self.served.add(budget)

    def send(self):
        """Take a request from every budget that has something to say."""
        for budget in list(self.served):
            if budget.wants() <= 0 and budget not in [asked for asked, _ in self.under_way]:
                self.under_way.append((budget, budget.compose()))

    def deliver(self):
        """Have the store answer what is under way."""
        under_way, self.under_way = self.under_way, []
        for budget, request in under_way:
            budget.apply(exchange(self.record, request, self.clock.now() * MICRO))

    def fail(self):
        """Have the store not answer."""
        under_way, self.under_way = self.under_way, []
        for budget, _ in under_way:
            budget.lost(OSError("gone"))

    def settle_down(self):
        self.settle_down_in(6.0, step=0.2)

    def settle_down_in(self, seconds, *, step=0.05):
        """Have all that is to be said be said and answered, over so many seconds."""
        for _ in range(round(seconds / step)):
            self.send()
            self.deliver()
            for _ in range(5):
                gevent.sleep(0)
            self.clock.advance(step)


@pytest.fixture
def courier(clock, monkeypatch):
    """Give the courier of every limiter with `share=`; the test module says which `clock`."""
    courier = Courier(clock)
    monkeypatch.setattr(_shared_budget, "sync_of", lambda *_: courier)
    return courier
