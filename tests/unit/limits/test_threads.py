from __future__ import annotations

import threading

import gevent

from greenkit.limits import Limiter


def test_threads_share_one_budget_and_lose_nothing():
    """Waiters of three hubs pass one turnstile; all get through, none twice."""
    limiter = Limiter("shared", requests="5_000/s burst 1", concurrency=7)
    passed, waited = [], []

    def one(number):
        with limiter.permit(timeout=60) as permit:
            passed.append(number)
            waited.append(permit.waited)

    def crowd(first):
        gevent.joinall([gevent.spawn(one, first + number) for number in range(60)], raise_error=True)

    threads = [threading.Thread(target=crowd, args=(first,)) for first in (0, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(set(passed)) == len(passed) == 180
    assert sum(wait > 0 for wait in waited) > 100, "hardly anybody had to wait"
    seen = limiter.statistics()
    assert (seen.granted, seen.waiting, seen.in_use) == (180, 0, 0)
