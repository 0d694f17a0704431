"""Other limiters over one Redis, at their best settings: each gives a function that waits for one permit."""

from __future__ import annotations

import time
from importlib.util import find_spec


def limits_moving(url, rate, burst):
    from limits import RateLimitItemPerSecond
    from limits.storage import RedisStorage
    from limits.strategies import MovingWindowRateLimiter

    limiter = MovingWindowRateLimiter(RedisStorage(url))
    item = RateLimitItemPerSecond(rate)

    def wait():
        while not limiter.hit(item, "key"):
            # Its reset time is that of the whole window, up to a second away.
            time.sleep(max(0.005, min(0.05, limiter.get_window_stats(item, "key").reset_time - time.time())))

    return wait


def throttled_gcra(url, rate, burst):
    from throttled import RateLimiterType, RedisStore, Throttled, per_sec

    patient = Throttled(
        key="key",
        using=RateLimiterType.GCRA.value,
        quota=per_sec(rate, burst=burst),
        store=RedisStore(server=url),
        timeout=60,
    )

    def wait():
        while patient.limit().limited:
            pass

    return wait


def steindamm(url, rate, burst):
    import redis
    from steindamm import SyncRedisTokenBucket

    bucket = SyncRedisTokenBucket(
        connection=redis.Redis.from_url(url, max_connections=500),
        name="key",
        capacity=burst,
        refill_frequency=1 / rate,
        refill_amount=1,
        max_sleep=600,
    )

    def wait():
        with bucket:
            pass

    return wait


def by_hand(url, rate, burst):
    import redis

    client = redis.Redis.from_url(url, max_connections=500)

    def wait():
        while True:
            second = int(time.time())
            key = f"hand:{second}"
            if client.incr(key) <= rate:
                return
            client.expire(key, 2)
            time.sleep(second + 1 - time.time())

    return wait


ALL = {
    "limits, moving window": limits_moving,
    "throttled-py, GCRA": throttled_gcra,
    "INCR and EXPIRE by hand": by_hand,
}

if find_spec("steindamm"):  # needs Python 3.11
    ALL["steindamm"] = steindamm
