"""Reading an error never raises, and never answers what cannot be waited."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from greenkit.limits._feedback import ending_of, worth_another
from greenkit.pool._outcome import is_overload
from greenkit.responses import is_disconnect, read, read_answer

NAMES = [
    "status_code",
    "status",
    "code",
    "response",
    "headers",
    "body",
    "details",
    "type",
    "message",
    "errors",
    "retry_after",
    "trailing_metadata",
    "_content",
    "ResponseMetadata",
    "Error",
    "error",
    "retryDelay",
    "seconds",
    "nanos",
    "__cause__",
]
HEADERS = [
    "retry-after",
    "retry-after-ms",
    "x-ms-retry-after-ms",
    "date",
    "ratelimit",
    "x-ratelimit-reset",
    "x-ratelimit-remaining",
    "x-ratelimit-reset-tokens",
    "anthropic-ratelimit-tokens-reset",
    "x-should-retry",
]
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(100, 599),
    st.floats(),
    st.text(max_size=20),
    st.binary(max_size=20),
    st.sampled_from(
        ["429", "rate_limit_exceeded", "RESOURCE_EXHAUSTED", "1e999", "-0", "6m0s", "9" * 400, "\u0661s"]
    ),
    st.from_regex(r"(Mon, )?\d{1,2} Jan \d{1,20} \d\d:\d\d:\d\d (GMT|[+-]\d{4,15})", fullmatch=True),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(NAMES + HEADERS), inner, max_size=4)
    ),
    max_leaves=8,
)


class Hostile:
    """Raise from whatever it is asked for."""

    def __getattr__(self, name):
        raise RuntimeError(name)

    def __str__(self):
        raise RuntimeError("str")

    def __float__(self):
        raise OverflowError


class Thing:
    """Have the attributes of a mapping."""

    def __init__(self, attributes):
        vars(self).update(attributes)


things = st.one_of(
    values, st.dictionaries(st.sampled_from(NAMES), values, max_size=5).map(Thing), st.builds(Hostile)
)


class AnyError(Exception):
    """Be an error of a library nobody knows."""


class ShieldedError(Exception):
    """Raise from every attribute."""

    def __getattribute__(self, name):
        if name.startswith("__") and name not in ("__cause__", "__context__"):
            return super().__getattribute__(name)
        raise RuntimeError(name)


def check(answer):
    assert answer.status is None or 100 <= answer.status <= 599
    assert answer.retry_after is None or 0 < answer.retry_after < math.inf
    assert isinstance(answer.later and answer.overloaded and answer.transient and answer.limited, bool)


@given(st.dictionaries(st.sampled_from(NAMES[:-1]), things, max_size=6), st.booleans())
def test_no_error_breaks_its_reader(attributes, wrapped):
    """Whatever hangs on an error, every question about it has an answer."""
    error = AnyError("x")
    vars(error).update(attributes)
    if wrapped:
        outer = RuntimeError("wrapped")
        outer.__cause__ = error
        error = outer
    check(read(error))
    for ask in (ending_of, worth_another, is_overload, is_disconnect):
        ask(error)


@given(st.integers(100, 599), st.dictionaries(st.sampled_from(HEADERS), things, max_size=5) | things, things)
def test_no_answer_breaks_its_reader(status, headers, body):
    """Nor does any header or body."""
    check(read_answer(status, headers, body=body))


def test_an_error_may_raise_from_everything():
    """Also from its cause and context."""
    check(read(ShieldedError()))
    assert not worth_another(ShieldedError())
