from __future__ import annotations

import pytest

from greenkit.errors import ConfigError
from greenkit.limits import Limiter, Quota
from greenkit.limits._feedback import reader_of
from greenkit.testing import FakeClock

OPENAI = {
    "x-ratelimit-limit-requests": "500",
    "x-ratelimit-remaining-requests": "499",
    "x-ratelimit-limit-tokens": "30000",
    "x-ratelimit-remaining-tokens": "29975",
    "x-ratelimit-reset-tokens": "6m0s",
}
ANTHROPIC = {
    "anthropic-ratelimit-requests-limit": "50",
    "anthropic-ratelimit-requests-remaining": "49",
    "anthropic-ratelimit-input-tokens-limit": "40000",
    "anthropic-ratelimit-output-tokens-remaining": "7000",
}


@pytest.mark.parametrize(
    ("dialect", "headers", "quotas"),
    [
        ("openai", OPENAI, {"requests": Quota(500, 499, 60), "tokens": Quota(30000, 29975, 60)}),
        (
            "anthropic",
            ANTHROPIC,
            {
                "requests": Quota(50, 49, 60),
                "input_tokens": Quota(40000, None, 60),
                "output_tokens": Quota(None, 7000, 60),
            },
        ),
        ("generic", {"x-ratelimit-limit": "60", "x-ratelimit-remaining": "3"}, {"requests": Quota(60, 3)}),
        (
            "generic",
            {"ratelimit-policy": '"default";q=100;w=60', "ratelimit": '"default";r=50;t=30'},
            {"requests": Quota(100, 50, 60)},
        ),
        ("generic", {"ratelimit-limit": "-1", "ratelimit-remaining": "soon"}, {}),
        ("openai", {"x-ratelimit-limit-requests": "inf"}, {}),
        (None, OPENAI, {}),
    ],
)
def test_headers_are_read_in_every_dialect(dialect, headers, quotas):
    """What is missing or unreadable is not said."""
    assert dict(reader_of(dialect)(headers)) == quotas


def test_an_unknown_dialect_is_a_mistake():
    """The message names those there are."""
    with pytest.raises(ConfigError, match="'openai', 'anthropic', 'generic'"):
        Limiter("a", requests="5/s", feedback="opnai")


def test_what_is_left_at_the_server_is_adopted_when_it_is_less():
    """Another client shares the key; header names may have any case."""
    clock = FakeClock()
    llm = Limiter(
        "a", requests="600/min burst 20", tokens="6000/min burst 500", feedback="openai", clock=clock
    )
    llm.observe(200, {"X-RateLimit-Remaining-Requests": "7", "x-ratelimit-remaining-tokens": "999"})
    assert llm.statistics().available == {"requests": pytest.approx(7), "tokens": pytest.approx(500)}
    assert llm.statistics().pace == 1.0


def test_learnt_limits_never_exceed_what_was_configured():
    """Half the limit halves the rate; a higher one changes nothing; it comes back when the server says so."""
    clock = FakeClock()
    llm = Limiter("a", requests="60/min burst 1", feedback="openai", clock=clock)
    for limit, wait in (("30", 2.0), ("6000", 1.0)):
        llm.observe(200, {"x-ratelimit-limit-requests": limit})
        clock.advance(100)
        assert llm.try_permit()
        assert llm.try_permit().retry_after == pytest.approx(wait)


def test_headers_of_an_error_are_learnt_too():
    """A 429 that leaves the block brings its quota along."""

    class TooManyError(Exception):
        status_code = 429

        def __init__(self):
            super().__init__()
            self.headers = {"x-ratelimit-limit-requests": "6", "retry-after": "1"}

    clock = FakeClock()
    llm = Limiter("a", requests="60/min burst 1", feedback="openai", clock=clock)
    with pytest.raises(TooManyError), llm.permit():
        raise TooManyError
    clock.advance(1000)
    assert llm.try_permit()
    assert llm.try_permit().retry_after == pytest.approx(10.0, rel=0.05)


def test_a_reader_of_your_own_says_quotas():
    """Any function from headers to quotas will do."""
    clock = FakeClock()
    api = Limiter(
        "a",
        requests="10/s burst 10",
        feedback=lambda headers: {"requests": Quota(remaining=float(headers["left"]))},
        clock=clock,
    )
    api.observe(200, {"Left": "3"})
    assert api.statistics().available["requests"] == pytest.approx(3)
