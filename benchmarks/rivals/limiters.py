"""Other limiters at their best settings for one process, each as (try once, wait for one).

Who has no wait of its own gets the one its documentation shows: ask, sleep for what it says, ask again.
"""

from __future__ import annotations

import time
from importlib.util import find_spec


def _poll(ask, pause):
    def wait():
        while not ask():
            time.sleep(pause())

    return wait


def limits_fixed(rate, burst):
    from limits import RateLimitItemPerSecond
    from limits.storage import MemoryStorage
    from limits.strategies import FixedWindowRateLimiter

    limiter, item = FixedWindowRateLimiter(MemoryStorage()), RateLimitItemPerSecond(rate)

    def ask():
        return limiter.hit(item, "key")

    return ask, _poll(ask, lambda: max(0.001, limiter.get_window_stats(item, "key").reset_time - time.time()))


def limits_moving(rate, burst):
    from limits import RateLimitItemPerSecond
    from limits.storage import MemoryStorage
    from limits.strategies import MovingWindowRateLimiter

    limiter, item = MovingWindowRateLimiter(MemoryStorage()), RateLimitItemPerSecond(rate)

    def ask():
        return limiter.hit(item, "key")

    return ask, _poll(ask, lambda: max(0.001, limiter.get_window_stats(item, "key").reset_time - time.time()))


def throttled_gcra(rate, burst):
    from throttled import RateLimiterType, Throttled, per_sec

    kind = RateLimiterType.GCRA.value
    once = Throttled(key="key", using=kind, quota=per_sec(rate, burst=burst))
    patient = Throttled(key="key", using=kind, quota=per_sec(rate, burst=burst), timeout=120)

    def ask():
        return not once.limit().limited

    def wait():
        while patient.limit().limited:
            pass

    return ask, wait


def pyrate(rate, burst):
    from pyrate_limiter import Duration, Limiter, Rate

    limiter = Limiter(Rate(rate, Duration.SECOND))
    return (
        lambda: limiter.try_acquire("key", blocking=False),
        lambda: limiter.try_acquire("key", blocking=True),
    )


def token_bucket(rate, burst):
    import token_bucket

    limiter = token_bucket.Limiter(rate, max(1, burst), token_bucket.MemoryStorage())

    def ask():
        return limiter.consume("key")

    return ask, _poll(ask, lambda: 0.01)


def steindamm(rate, burst):
    from steindamm import SyncLocalTokenBucket

    bucket = SyncLocalTokenBucket(
        name="key", capacity=burst, refill_frequency=1 / rate, refill_amount=1, max_sleep=600
    )

    def wait():
        with bucket:
            pass

    return wait, wait


def kombu_bucket(rate, burst):
    from kombu.utils.limits import TokenBucket

    bucket = TokenBucket(rate, capacity=burst)

    def ask():
        return bucket.can_consume(1)

    return ask, _poll(ask, lambda: bucket.expected_time(1))


ALL = {
    "limits, fixed window": limits_fixed,
    "limits, moving window": limits_moving,
    "throttled-py, GCRA": throttled_gcra,
    "pyrate-limiter": pyrate,
    "token-bucket": token_bucket,
    "kombu's bucket": kombu_bucket,
}

if find_spec("steindamm"):  # needs Python 3.11
    ALL["steindamm"] = steindamm
