"""What happens to a batch of LLM calls under a quota: with what people do, and with a limiter?

600 calls from 200 greenlets against a model of a provider: buckets of 50 requests and 28,000 tokens a
second that hold one second's worth, answers of 0.2 to 1 s, a cost nobody knows beforehand (charged when
the call comes in), and 429 with Retry-After. Shown: calls lost, rejections per success, time by ideal
time. The provider is a model in this process, with one seed; it charges real usage, which is what
reserving and settling assumes.

Also with the quota configured twice too high, and with somebody else eating half of it. Draws the
requests sent against what was allowed, rejections as dots: docs/explanation/limits-staircase.svg.

Run: python benchmarks/bench_llm_quota.py [--draw]
"""

from __future__ import annotations

import gevent.monkey

gevent.monkey.patch_all()

import random
import sys
import time
from pathlib import Path

import gevent
from gevent.lock import BoundedSemaphore

from greenkit.limits import Limiter

CALLS, GREENLETS = 600, 200
REQUESTS, TOKENS = 50.0, 28_000.0
PICTURE = Path(__file__).parents[1] / "docs" / "explanation" / "limits-staircase.svg"


class TooManyError(Exception):
    status_code = 429

    def __init__(self, wait, left):
        super().__init__("429")
        self.headers = {
            "retry-after-ms": str(int(wait * 1000)),
            "x-ratelimit-remaining-requests": str(int(left)),
        }


class Provider:
    """Charge on arrival, refuse what is not there."""

    def __init__(self):
        self.rng = random.Random(7)
        self.requests, self.tokens = REQUESTS, TOKENS
        self.at = time.monotonic()
        self.begin = self.at
        self.log = []

    def call(self, prompt, answer):
        now = time.monotonic()
        self.requests = min(REQUESTS, self.requests + (now - self.at) * REQUESTS)
        self.tokens = min(TOKENS, self.tokens + (now - self.at) * TOKENS)
        self.at = now
        wait = max((1 - self.requests) / REQUESTS, (prompt + answer - self.tokens) / TOKENS, 0.0)
        self.log.append((now - self.begin, wait == 0.0))
        if wait:
            gevent.sleep(0.02)
            raise TooManyError(wait, self.requests)
        self.requests -= 1
        self.tokens -= prompt + answer
        gevent.sleep(self.rng.uniform(0.2, 1.0))
        return prompt + answer


def work():
    rng = random.Random(3)
    return [(rng.randrange(100, 500), int(min(1000, rng.lognormvariate(5.5, 0.5)))) for _ in range(CALLS)]


def sdk_default(provider):
    return by_backoff(provider, tries=3, first=0.5, longest=8.0, jitter=0.25)


def tenacity_recipe(provider):
    return by_backoff(provider, tries=6, first=1.0, longest=60.0, jitter=1.0)


def by_backoff(provider, *, tries, first, longest, jitter):
    gate, rng = BoundedSemaphore(GREENLETS), random.Random(5)

    def ask(prompt, answer):
        with gate:
            for number in range(tries):
                try:
                    return provider.call(prompt, answer)
                except TooManyError:
                    if number == tries - 1:
                        raise
                    cap = min(longest, first * 2**number)
                    gevent.sleep(cap * (1 - rng.random() * jitter))
        return None

    return ask


def greenkit(provider, *, times=1.0):
    limiter = Limiter(
        "llm",
        requests=f"{REQUESTS * times:g}/s burst {REQUESTS * 0.1:g}",
        tokens=f"{TOKENS * times:g}/s burst {TOKENS * 0.1:g}",
        concurrency=GREENLETS,
        feedback="openai",
    )
    answer_tokens = limiter.estimate(400, most=1000)

    def ask(prompt, answer):
        for attempt in limiter.attempts(deadline=300.0, tokens=answer_tokens.guess(prompt)):
            with attempt as permit:
                permit.settle(tokens=provider.call(prompt, answer))
        return True

    return ask


def twice_too_high(provider):
    return greenkit(provider, times=2.0)


def run(make, *, thief=False):
    """Return (lost, rejections per success, seconds, provider)."""
    provider = Provider()
    ask, lost = make(provider), []
    eater = gevent.spawn(eat_half, provider) if thief else None

    def one(prompt, answer):
        try:
            ask(prompt, answer)
        except TooManyError:
            lost.append(1)

    begin = time.monotonic()
    gevent.joinall([gevent.spawn(one, *call) for call in work()])
    spent = time.monotonic() - begin
    if eater is not None:
        eater.kill()
    rejected = sum(not through for _, through in provider.log)
    return len(lost), rejected / max(1, CALLS - len(lost)), spent, provider


def eat_half(provider):
    """Be another client of the same key, that takes half of all there is whatever happens."""
    last = time.monotonic()
    while True:
        gevent.sleep(0.02)
        now = time.monotonic()
        provider.requests -= REQUESTS / 2 * (now - last)
        provider.tokens -= TOKENS / 2 * (now - last)
        last = now


def draw(provider, ideal):
    """Draw requests let through (line), what was allowed (grey), rejections (dots)."""
    width, height, last = 640, 300, max(instant for instant, _ in provider.log)
    rate = CALLS / ideal

    def point(instant, many):
        return f"{40 + instant / last * (width - 60):.1f},{height - 30 - many / CALLS * (height - 50):.1f}"

    through, sent, dots = [], 0, []
    for instant, passed in provider.log:
        sent += passed
        if passed:
            through.append(point(instant, sent))
        else:
            dots.append(point(instant, sent).split(","))
    steps = []
    for number in range(int(last * 4) + 1):  # a full bucket, and what flows in by the quarter second
        allowed = min(CALLS, rate * (1 + (number + 1) / 4))
        steps += [point(number / 4, allowed), point(min((number + 1) / 4, last), allowed)]
    title = f"{CALLS} calls let through (line), what the quota allows (grey), {len(dots)} rejections (dots)"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"',
        ' font-family="sans-serif" font-size="11">',
        f'<polyline points="{" ".join(steps)}" fill="none" stroke="#bbb" stroke-width="4"/>',
        f'<polyline points="{" ".join(through)}" fill="none" stroke="#176" stroke-width="1.5"/>',
        *[f'<circle cx="{x}" cy="{y}" r="2" fill="#c22"/>' for x, y in dots],
        f'<text x="40" y="{height - 10}">0 s</text>',
        f'<text x="{width - 60}" y="{height - 10}">{last:.0f} s</text>',
        f'<text x="50" y="20">{title}</text>',
        "</svg>",
    ]
    PICTURE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"drew {PICTURE.name}")


def main():
    ideal = max(CALLS / REQUESTS, sum(map(sum, work())) / TOKENS - 1.0)
    cases = {
        "200 at once, SDK's own 2 retries": (sdk_default, False),
        "200 at once, tenacity's recipe (6 tries, 1 to 60 s)": (tenacity_recipe, False),
        "greenkit": (greenkit, False),
        "greenkit, quota configured twice too high": (twice_too_high, False),
        "greenkit, half of the quota eaten by another": (greenkit, True),
    }
    for name, (make, thief) in cases.items():
        lost, rejected, spent, provider = run(make, thief=thief)
        best = ideal * (2 if thief else 1)
        took = spent / best
        print(f"  {name:52} {lost:4} lost, {rejected:6.2f} rejections each, {took:5.2f} x ideal", flush=True)
        if make is twice_too_high and "--draw" in sys.argv:
            draw(provider, ideal)


if __name__ == "__main__":
    main()
