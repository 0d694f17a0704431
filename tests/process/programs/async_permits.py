"""One quota for sync and async callers: run with "patched", "plain" or "asyncio" and the name of a check."""

from __future__ import annotations

import sys

HOW = sys.argv[1]
if HOW == "patched":
    import greenkit.auto

import asyncio
import threading
import time

from greenkit import Limiter
from greenkit.errors import LimitTimeout, RateLimited

CHECKS = {}


def check(function):
    CHECKS[function.__name__] = function
    return function


@check
def concurrency_is_one_bound_for_both():
    limiter = Limiter("both", concurrency=3)
    inside, peak = [], []

    async def call():
        async with limiter.permit(timeout=20):
            inside.append(1)
            peak.append(len(inside))
            await asyncio.sleep(0.002)
            inside.pop()

    def sync_call():
        with limiter.permit(timeout=20):
            inside.append(1)
            peak.append(len(inside))
            time.sleep(0.002)
            inside.pop()

    async def main():
        await asyncio.gather(*(call() for _ in range(60)))

    threads = [threading.Thread(target=sync_call) for _ in range(20)]
    for thread in threads:
        thread.start()
    asyncio.run(main())
    for thread in threads:
        thread.join()
    assert len(peak) == 80 and max(peak) <= 3, max(peak)
    assert max(peak) == 3, "nobody ever waited: nothing was tested"


@check
def a_cancelled_coroutine_takes_nothing():
    limiter = Limiter("cancelled", concurrency=1)
    waited = []

    async def call():
        waited.append(1)
        async with limiter.permit(timeout=20):
            await asyncio.sleep(0.001)

    async def main():
        for n in range(60):
            async with limiter.permit(timeout=20):
                tasks = [asyncio.ensure_future(call()) for _ in range(5)]
                await asyncio.sleep(0.001 * (n % 3))
                for task in tasks[n % 2 :]:
                    task.cancel()
            await asyncio.sleep(0.0005 * (n % 5))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        async with limiter.permit(timeout=5):
            pass

    asyncio.run(main())
    assert len(waited) == 300
    seen = limiter.statistics()
    assert (seen.in_use, seen.waiting) == (0, 0), seen


@check
def a_timeout_reaches_the_coroutine():
    limiter = Limiter("late", concurrency=1)

    async def main():
        async with limiter.permit(timeout=5):
            try:
                async with limiter.permit(timeout=0.05):
                    raise AssertionError("granted")
            except LimitTimeout:
                return "late"

    assert asyncio.run(main()) == "late"


@check
def attempts_go_on_after_a_failure():
    limiter = Limiter("attempts", requests="1000/s", concurrency=2)
    tries = []

    async def main():
        async for attempt in limiter.attempts(deadline=20):
            async with attempt:
                tries.append(1)
                if len(tries) < 3:
                    raise RateLimited("slow down", retry_after=0.01)
                return "answer"
        return "no answer"

    assert asyncio.run(main()) == "answer"
    assert len(tries) == 3
    assert limiter.statistics().in_use == 0


@check
def an_attempt_that_is_not_entered_is_said():
    limiter = Limiter("unentered", requests="1000/s")

    async def main():
        async for _ in limiter.attempts(deadline=20):
            pass

    try:
        asyncio.run(main())
    except RuntimeError as error:
        assert "was not entered" in str(error)
    else:
        raise AssertionError("nothing was said")


if __name__ == "__main__":
    CHECKS[sys.argv[2]]()
    print("ok")
